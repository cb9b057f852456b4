"""FiLM networks for segmentation: FiLM's stem and blocks, and a head that draws maps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from msgspec import Meta
from torch import Tensor, nn

from filmvqa.models.batch_norm import BatchNorm2d
from filmvqa.models.blocks import FilmedResBlock
from filmvqa.models.encoder import QuestionEncoder
from filmvqa.models.film_generator import FilmGenerator
from filmvqa.models.film_net import FilmNet
from filmvqa.models.initial_weights import InitialBiases, InitialWeights
from filmvqa.models.options import (
    Axes,
    Coordinates,
    FeatureShape,
    OptionGroup,
    PixelRange,
    build_part,
)
from filmvqa.models.registry import register_model
from filmvqa.models.vision import Stem, convolution
from filmvqa.settings.typed import Natural, Positive
from filmvqa.system.devices import at_least_float32
from filmvqa.system.errors import OptionError

#: (h, w)
MaskSize = Annotated[Sequence[Positive], Meta(min_length=2, max_length=2)]


class MaskHead(nn.Module):
    """Convolution, batch norm, ReLU, sub-pixel convolution, ReLU, convolution to maps.

    The sub-pixel convolution (Shi et al. 2016) makes ``factor`` × ``factor`` places of each place,
    where ``factor`` is the rounded ratio of the sizes of maps and input. If the result does not
    have the maps' size, it is interpolated.

    Parameters
    ----------
    channels
        Channels of the input.
    map_size
        (H, W) of the input.
    mask_size
        (h, w) of the maps.
    num_maps
        Number of maps.
    context_dim
        Width of a context vector, which acts as in ``FilmedResBlock``; 0: no context.
    hidden_dim
        Channels of the first convolution's output.
    fine_dim
        Channels after the sub-pixel convolution.
    first_kernel_size, kernel_size
        Kernel sizes of the first and the last convolution, odd.
    norm
        Whether there is batch norm.
    coordinates
        Whether to append coordinate maps to the input. None, which the network replaces by its own
        choice, means no.
    """

    def __init__(
        self,
        channels: int,
        map_size: tuple[int, int],
        mask_size: Sequence[int],
        num_maps: int = 1,
        context_dim: int = 0,
        *,
        hidden_dim: Positive = 64,
        fine_dim: Positive = 16,
        first_kernel_size: Positive = 1,
        kernel_size: Positive = 3,
        norm: bool = True,
        coordinates: bool | None = True,
    ) -> None:
        super().__init__()
        for name, size in (("first_kernel_size", first_kernel_size), ("kernel_size", kernel_size)):
            if size % 2 == 0:
                raise OptionError(f"{name}={size}: must be odd")
        self.mask_size = (mask_size[0], mask_size[1])
        self.factor = max(1, round(mask_size[0] / map_size[0]))
        self.conv = convolution(
            channels, hidden_dim, first_kernel_size,
            coordinates=bool(coordinates), padding=first_kernel_size // 2,
        )  # fmt: skip
        self.context = nn.Linear(context_dim, hidden_dim, bias=False) if context_dim else None
        self.norm = BatchNorm2d(hidden_dim) if norm else None
        self.refine = nn.Conv2d(hidden_dim, fine_dim * self.factor**2, 1)
        self.draw = nn.Conv2d(fine_dim, num_maps, kernel_size, padding=kernel_size // 2)

    #: As in ``Classifier``. This head pools nothing.
    takes_branch: ClassVar[bool] = False
    project: ClassVar[None] = None

    def forward(
        self, x: Tensor, context: Tensor | None = None, branch: Tensor | None = None
    ) -> Tensor:
        """Map (B, channels, H, W), and a context (B, context_dim) if any, to logits.

        Logits are (B, num_maps, h, w), or (B, h, w) if there is one map. ``branch`` is ignored.
        """
        x = self.conv(x)
        if self.context is not None and context is not None:
            x = x + self.context(context)[:, :, None, None]
        x = torch.relu(x if self.norm is None else self.norm(x))
        x = torch.relu(F.pixel_shuffle(self.refine(x), self.factor))
        logits: Tensor = self.draw(x)
        if logits.shape[2:] != self.mask_size:
            logits = F.interpolate(at_least_float32(logits), self.mask_size, mode="bilinear")
        return logits[:, 0] if logits.shape[1] == 1 else logits


@register_model("film_segmentation")
class FilmSegmentation(FilmNet):
    """FiLM's stem and blocks, and a head that draws one or several maps of the image.

    A single map (B, h, w) has the logits of the places that the text refers to. Of several maps
    (B, K, h, w), each has the logits of one class.

    Parameters
    ----------
    vocab_size, feature_shape, channels, num_blocks, film_blocks, coordinates, coordinate_axes, \
    pixel_range, initial_biases, initial_weights, reads, encoder, generator, stem, block
        As ``FilmNet``.
    mask_size
        (h, w) of the maps.
    num_maps
        Number of maps.
    head
        Keyword options of ``MaskHead``. Its ``coordinates`` default to the network's.

    Raises
    ------
    OptionError
        As ``FilmNet``.
    """

    OPTION_GROUPS: ClassVar[dict[str, type[nn.Module]]] = {
        "encoder": QuestionEncoder,
        "generator": FilmGenerator,
        "stem": Stem,
        "block": FilmedResBlock,
        "head": MaskHead,
    }
    #: The targets that the output is compared with.
    TARGETS: ClassVar[str] = "masks"

    def __init__(
        self,
        vocab_size: Positive,
        mask_size: MaskSize,
        feature_shape: FeatureShape,
        num_maps: Positive = 1,
        *,
        channels: Positive = 128,
        num_blocks: Natural = 4,
        film_blocks: Sequence[bool | Literal[0, 1]] | None = None,
        coordinates: Coordinates = "inputs",
        coordinate_axes: Axes = "xy",
        pixel_range: PixelRange = "centered",
        initial_biases: InitialBiases = "zero",
        initial_weights: InitialWeights = "kaiming",
        reads: bool = False,
        encoder: OptionGroup = None,
        generator: OptionGroup = None,
        stem: OptionGroup = None,
        block: OptionGroup = None,
        head: OptionGroup = None,
    ) -> None:
        self._mask_size = mask_size
        super().__init__(
            vocab_size, num_maps, feature_shape, channels=channels, num_blocks=num_blocks,
            film_blocks=film_blocks, coordinates=coordinates, coordinate_axes=coordinate_axes,
            pixel_range=pixel_range,
            initial_biases=initial_biases, initial_weights=initial_weights, reads=reads,
            encoder=encoder, generator=generator, stem=stem, block=block, classifier=head,
        )  # fmt: skip

    def _build_head(
        self,
        map_size: tuple[int, int],
        num_answers: int,
        channels: int,
        context_dim: int,
        coordinate_axes: Axes,
        options: dict[str, Any],
    ) -> None:
        self.mask_head = build_part(
            "head", MaskHead, channels, map_size, self._mask_size, num_answers, context_dim,
            **options,
        )  # fmt: skip

    @property
    def _head(self) -> MaskHead:
        return self.mask_head


@register_model("film_label_maps")
class FilmLabelMaps(FilmSegmentation):
    """``FilmSegmentation`` with maps (B, K, h, w) of K classes.

    The text does not say what to segment, but how.
    """

    TARGETS: ClassVar[str] = "label_maps"
