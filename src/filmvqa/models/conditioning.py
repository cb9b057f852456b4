"""How a question acts on a block's feature maps: FiLM, and two ways with more inductive bias."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from filmvqa.film import film
from filmvqa.models.film_generator import Modulation
from filmvqa.models.vision import CoordConv2d


class Film(nn.Module):
    """Feature-wise linear modulation: every place of a map shares its γ and β."""

    uses_gamma_beta = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.extra_dim = 0

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        """(B, C, H, W) to the same."""
        return film(x, modulation.gamma, modulation.beta)


class SpatialFilm(nn.Module):
    """γ and β that vary over the map: FiLM's, plus deviations read from each place.

    Places are described by ``rank`` maps of the features and coordinates; the question weighs
    them, and a linear layer makes of them what each place adds to γ and to β. That layer starts
    at 0, so training starts from FiLM. It is FiLM's counterpart to spatially adaptive
    normalisation (Park et al. 2019), with the question in the place of the segmentation.
    """

    uses_gamma_beta = True

    def __init__(self, channels: int, rank: int = 16) -> None:
        super().__init__()
        self.extra_dim = rank
        self.describe = CoordConv2d(channels, rank, 1)
        self.deviate = nn.Parameter(torch.zeros(2 * channels, rank, 1, 1))

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        """(B, C, H, W) to the same."""
        maps = torch.relu(self.describe(x) * modulation.extra[:, :, None, None])  # (B, rank, H, W)
        delta_gamma, delta_beta = F.conv2d(maps, self.deviate.to(maps.dtype)).chunk(2, 1)
        return film(x, modulation.gamma, modulation.beta) + delta_gamma * x + delta_beta


class DualAttention(nn.Module):
    """Gated attention on channels, then on places, then on channels again (Chaplot et al. 2019).

    The gates σ(a) choose channels; their sum at each place, through a softmax over the map, says
    where to look; σ(b) then choose channels of what is seen there. The softmax is scaled by the
    number of places, so that looking everywhere changes nothing.
    """

    uses_gamma_beta = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.extra_dim = 2 * channels

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        """(B, C, H, W) to the same."""
        num_channels, height, width = x.shape[1:]
        gates_a, gates_b = torch.sigmoid(modulation.extra)[:, :, None, None].chunk(2, 1)
        scores = (gates_a * x).sum(1) / math.sqrt(num_channels)  # (B, H, W)
        attention = torch.softmax(scores.flatten(1).float(), 1) * (height * width)  # (B, H W)
        attended = x * attention.view(len(x), 1, height, width).to(x.dtype)  # (B, C, H, W)
        return gates_b * attended
