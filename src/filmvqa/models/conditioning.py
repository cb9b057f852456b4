"""Layers by which a question modulates feature maps: FiLM, spatial FiLM and dual attention.

Each declares ``uses_gamma_beta``, whether it reads γ and β of its modulation, and ``extra_dim``,
how many further numbers it reads.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from filmvqa.film import film
from filmvqa.models.film_generator import Modulation
from filmvqa.models.vision import CoordConv2d


class Film(nn.Module):
    """Feature-wise linear modulation (section 2): all positions of a map share one γ and one β."""

    uses_gamma_beta = True

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.extra_dim = 0

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        """Map x (B, C, H, W) to the same shape."""
        return film(x, modulation.gamma, modulation.beta)


class SpatialFilm(nn.Module):
    """FiLM whose γ and β also vary over the map.

    A 1×1 convolution computes ``rank`` maps from the features and the coordinates. The question
    scales these maps, and after a ReLU a second 1×1 convolution computes from them what is added
    to γ and β at each position. Its weight is initialised to 0, so that training starts from FiLM.
    The idea is that of spatially adaptive normalisation (Park et al. 2019), with a question in the
    place of the segmentation map.
    """

    uses_gamma_beta = True

    def __init__(self, channels: int, rank: int = 16) -> None:
        super().__init__()
        self.extra_dim = rank
        self.describe = CoordConv2d(channels, rank, 1)
        self.deviate = nn.Parameter(torch.zeros(2 * channels, rank, 1, 1))

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        """Map x (B, C, H, W) to the same shape."""
        maps = torch.relu(self.describe(x) * modulation.extra[:, :, None, None])  # (B, rank, H, W)
        delta_gamma, delta_beta = F.conv2d(maps, self.deviate.to(maps.dtype)).chunk(2, 1)
        return film(x, modulation.gamma, modulation.beta) + delta_gamma * x + delta_beta


class DualAttention(nn.Module):
    """Attention over channels, then positions, then channels again (Chaplot et al. 2019).

    The question gives two vectors of gates, σ(a) and σ(b), with one gate a channel. The channels,
    weighted by σ(a), are summed at each position; a softmax of the sums over all positions is the
    spatial attention. The features are multiplied by the attention and by σ(b). The attention is
    scaled by the number of positions, so that a uniform one multiplies by 1.
    """

    uses_gamma_beta = False

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.extra_dim = 2 * channels

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        """Map x (B, C, H, W) to the same shape."""
        num_channels, height, width = x.shape[1:]
        gates = torch.sigmoid(modulation.extra)[:, :, None, None]  # (B, 2C, 1, 1)
        gates_a, gates_b = gates.chunk(2, 1)
        scores = (gates_a * x).sum(1) / math.sqrt(num_channels)  # (B, H, W)
        attention = torch.softmax(scores.flatten(1).float(), 1) * (height * width)  # (B, H W)
        attended = x * attention.view(len(x), 1, height, width).to(x.dtype)  # (B, C, H, W)
        return gates_b * attended
