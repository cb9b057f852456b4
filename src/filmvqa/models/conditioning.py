"""Layers by which a question modulates feature maps: FiLM, guide, spatial FiLM, dual attention.

A new layer is a class with the decorator ``register_conditioning``, in this package or outside.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import filmvqa.film
from filmvqa.models.protocols import Modulation
from filmvqa.models.vision import CoordConv2d
from filmvqa.settings.typed import Positive
from filmvqa.system.devices import at_least_float32
from filmvqa.system.errors import OptionError


class Conditioning(nn.Module):
    """Base class of conditioning layers.

    ``forward(x, modulation)`` maps x (B, C, H, W) to the same shape. A subclass may have
    keyword-only options, which are set by ``model.block.conditioning_options``.

    Parameters
    ----------
    channels
        Channels C of the maps.
    map_size
        (H, W) of the maps.
    words_dim
        Width of the words' states, for layers that read them.

    Attributes
    ----------
    uses_gamma_beta
        Whether the layer uses γ and β of its modulation. If no layer of a network does, γ is 1 and
        β is 0, and neither has weights.
    extra_dim
        Number of ``extra`` values of its modulation that the layer uses.
    reads_words
        Whether the layer uses the words' states of its modulation.
    """

    uses_gamma_beta: ClassVar[bool] = True
    reads_words: ClassVar[bool] = False
    extra_dim: int = 0

    def __init__(
        self, channels: int, map_size: tuple[int, int] | None = None, words_dim: int = 0
    ) -> None:
        super().__init__()


CONDITIONINGS: dict[str, type[Conditioning]] = {}

C = TypeVar("C", bound=type[Conditioning])


def register_conditioning(name: str) -> Callable[[C], C]:
    """Register a ``Conditioning`` as ``model.block.conditioning=<name>``."""

    def register(cls: C) -> C:
        CONDITIONINGS[name] = cls
        return cls

    return register


@register_conditioning("film")
class Film(Conditioning):
    """Feature-wise linear modulation (section 2): all positions of a map share γ and β."""

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        """Map x (B, C, H, W) to the same shape."""
        return filmvqa.film.film(x, modulation.gamma, modulation.beta)


@register_conditioning("guide")
class Guide(Conditioning):
    """FiLM whose γ has an additional term for each row and each column of the map.

    Rupprecht et al. 2018, "Guide Me: Interacting with Deep Networks", section 3.2:
    A'_{h,w,c} = (1 + α_h + β_w + γ^(s)_c) A_{h,w,c} + γ^(b)_c. Their 1 + γ^(s)_c and γ^(b)_c are
    FiLM's γ_c and β_c. Their α_h and β_w are the modulation's ``extra`` (B, H + W).

    Raises
    ------
    OptionError
        If ``map_size`` is None.
    """

    def __init__(
        self, channels: int, map_size: tuple[int, int] | None = None, words_dim: int = 0
    ) -> None:
        super().__init__(channels, map_size)
        if map_size is None:
            raise OptionError("conditioning=guide: needs the size of the maps")
        self.height, self.width = map_size
        self.extra_dim = self.height + self.width

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        """Map x (B, C, H, W) to the same shape.

        Raises
        ------
        ValueError
            If (H, W) is not ``map_size``.
        """
        if x.shape[2:] != (self.height, self.width):
            raise ValueError(
                f"maps of {tuple(x.shape[2:])}: the guide is for {(self.height, self.width)}"
            )
        rows, columns = modulation.extra[:, : self.height], modulation.extra[:, self.height :]
        places = rows[:, None, :, None] + columns[:, None, None, :]  # (B, 1, H, W)
        return filmvqa.film.film(x, modulation.gamma, modulation.beta) + places * x


@register_conditioning("spatial_film")
class SpatialFilm(Conditioning):
    """FiLM whose γ and β also vary over the map.

    A 1×1 convolution computes ``rank`` maps from features and coordinates. The question scales
    these maps. After a ReLU, a second 1×1 convolution maps them to deviations that are added to γ
    and β at each position. Its weight is initialised to 0, so that training starts from FiLM. The
    idea is that of spatially adaptive normalisation (Park et al. 2019), with a question in place
    of the segmentation map.
    """

    def __init__(
        self,
        channels: int,
        map_size: tuple[int, int] | None = None,
        words_dim: int = 0,
        *,
        rank: Positive = 16,
    ) -> None:
        super().__init__(channels, map_size)
        self.extra_dim = rank
        self.describe = CoordConv2d(channels, rank, 1)
        self.deviate = nn.Parameter(torch.zeros(2 * channels, rank, 1, 1))

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        """Map x (B, C, H, W) to the same shape."""
        maps = torch.relu(self.describe(x) * modulation.extra[:, :, None, None])  # (B, rank, H, W)
        delta_gamma, delta_beta = F.conv2d(maps, self.deviate.to(maps.dtype)).chunk(2, 1)
        modulated = filmvqa.film.film(x, modulation.gamma, modulation.beta)
        return modulated + delta_gamma * x + delta_beta


@register_conditioning("dual_attention")
class DualAttention(Conditioning):
    """Attention over channels, then positions, then channels again (Chaplot et al. 2019).

    The question gives two vectors of gates, σ(a) and σ(b), with one gate for each channel. At each
    position, the channels are summed with weights σ(a). The softmax of these sums over all
    positions is the spatial attention. The features are multiplied by the attention and by σ(b).
    The attention is scaled by the number of positions, so that uniform attention multiplies by 1.
    """

    uses_gamma_beta = False

    def __init__(
        self, channels: int, map_size: tuple[int, int] | None = None, words_dim: int = 0
    ) -> None:
        super().__init__(channels, map_size)
        self.extra_dim = 2 * channels

    def forward(self, x: Tensor, modulation: Modulation) -> Tensor:
        """Map x (B, C, H, W) to the same shape."""
        num_channels, height, width = x.shape[1:]
        gates = torch.sigmoid(modulation.extra)[:, :, None, None]  # (B, 2C, 1, 1)
        gates_a, gates_b = gates.chunk(2, 1)
        scores = (gates_a * x).sum(1) / math.sqrt(num_channels)  # (B, H, W)
        attention = torch.softmax(at_least_float32(scores.flatten(1)), 1)  # (B, H W)
        attention = attention * (height * width)
        attended = x * attention.view(len(x), 1, height, width).to(x.dtype)  # (B, C, H, W)
        return gates_b * attended
