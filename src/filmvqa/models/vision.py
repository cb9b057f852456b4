"""The image parts of a network: coordinate maps, pixel scaling and stem (section 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from filmvqa.models.batch_norm import BatchNorm2d
from filmvqa.models.options import Axes, PixelRange, StridesByAxis
from filmvqa.settings.typed import Natural, Positive
from filmvqa.system.devices import compute_dtype
from filmvqa.system.errors import OptionError


class CoordConv2d(nn.Conv2d):
    """A convolution with coordinate maps appended to its input (section 4.1).

    The maps are the x and y of each position, from -1 to 1, or only the one in ``axes``.
    ``in_channels`` does not count them: with both, the weight is
    (out_channels, in_channels + 2, k, k).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        axes: Axes = "xy",
        **kwargs: Any,
    ) -> None:
        super().__init__(in_channels + len(axes), out_channels, kernel_size, **kwargs)
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H', W')."""
        return super().forward(append_coordinates(x, self.axes))


def append_coordinates(x: Tensor, axes: Axes) -> Tensor:
    """Append coordinate maps from -1 to 1 to x (N, C, H, W), in its memory format."""
    n, _, height, width = x.shape
    # With another format of the maps, concatenation would copy x to that format.
    channels_last = x.is_contiguous(memory_format=torch.channels_last)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    like_x: dict[str, Any] = {"device": x.device, "dtype": x.dtype}
    maps = torch.empty((n, len(axes), height, width), memory_format=memory_format, **like_x)
    if "x" in axes:
        maps[:, 0] = torch.linspace(-1, 1, width, **like_x)
    if "y" in axes:
        maps[:, -1] = torch.linspace(-1, 1, height, **like_x)[:, None]
    return torch.cat([x, maps], 1)


def convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    coordinates: bool,
    axes: Axes = "xy",
    **kwargs: Any,
) -> nn.Conv2d:
    """Build a ``CoordConv2d`` with ``coordinates``, else a ``Conv2d``."""
    if coordinates:
        return CoordConv2d(in_channels, out_channels, kernel_size, axes=axes, **kwargs)
    return nn.Conv2d(in_channels, out_channels, kernel_size, **kwargs)


def for_each_question(x: Tensor, image_of_question: Tensor | None) -> Tensor:
    """Select the row of x (U, ...) of each question's image: (B, ...), in the memory format of x.

    Returns x itself if ``image_of_question`` is None. Selecting from flattened rows has a far
    faster gradient than indexing maps.
    """
    if image_of_question is None:
        return x
    channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    ordered = x.permute(0, 2, 3, 1) if channels_last else x
    selected = ordered.flatten(1).index_select(0, image_of_question)
    selected = selected.view(-1, *ordered.shape[1:])
    return selected.permute(0, 3, 1, 2) if channels_last else selected


def scale_pixels(features: Tensor, pixel_range: PixelRange = "centered") -> Tensor:
    """Cast stored features (U, C, H, W) to the dtype of matrix products, and scale pixels.

    uint8 pixels from 0 to 255 are scaled: ``centered`` to [-2, 2), where bfloat16 represents them
    exactly, or ``unit`` to [0, 1], as the original FiLM code stores them. Other features are only
    cast. The memory format is kept.
    """
    dtype = compute_dtype(features)
    if features.dtype != torch.uint8:
        return features.to(dtype)
    if pixel_range == "unit":
        return (features.float() / 255.0).to(dtype)
    return features.to(dtype) / 64.0 - 2.0


class Stem(nn.Module):
    """Convolutions with batch norm and ReLU that map features or pixels to the blocks' input.

    Parameters
    ----------
    input_dim
        Channels of the features.
    channels
        Channels of each layer's output.
    axes
        Coordinates of the coordinate maps.
    height
        Rows of the features, which only ``rows_as_channels`` needs.
    strides
        Stride of each layer, or its strides over rows and columns. There are as many layers as
        strides. Pixels need several of stride 2.
    kernel_size
        Kernel size of every layer.
    padding
        Padding of every layer. None: half of the kernel size.
    norm
        Whether there is batch norm.
    coordinates
        Whether to append coordinate maps to the first layer's input. None, which ``FilmNet``
        replaces by its own choice, means no.
    rows_as_channels
        Whether to turn the features' rows into channels of maps of one row. The first layer can
        then distinguish all frequencies of a spectrogram. ``input_dim`` and the height argument of
        ``output_size`` are still those of the features.
    """

    def __init__(
        self,
        input_dim: int,
        channels: int,
        axes: Axes = "xy",
        height: int = 1,
        *,
        strides: StridesByAxis = (1,),
        kernel_size: Positive = 3,
        padding: Natural | None = None,
        norm: bool = True,
        coordinates: bool | None = True,
        rows_as_channels: bool = False,
    ) -> None:
        super().__init__()
        self.rows_as_channels = rows_as_channels
        if rows_as_channels:
            input_dim *= height
        pairs = [(s, s) if isinstance(s, int) else (s[0], s[1]) for s in strides]
        self._strides, self._kernel_size = pairs, kernel_size
        self._option = [s if isinstance(s, int) else list(s) for s in strides]
        self._padding = kernel_size // 2 if padding is None else padding
        layers: list[nn.Module] = []
        for i, stride in enumerate(pairs):
            layers.append(
                convolution(
                    channels if i else input_dim, channels, kernel_size,
                    coordinates=bool(coordinates) and i == 0, axes=axes, stride=stride,
                    padding=self._padding,
                )
            )  # fmt: skip
            layers += [BatchNorm2d(channels), nn.ReLU()] if norm else [nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of the output for features of the given height and width.

        Raises
        ------
        OptionError
            If a layer's output would be empty, or the input of a layer of stride 2 or more is one
            pixel. (oneDNN's bfloat16 gradient of such a convolution has uninitialised values.)
        """
        if self.rows_as_channels:
            height = 1
        maps = f"{height}×{width}"
        for stride in self._strides:
            if max(stride) > 1 and max(height, width) == 1:
                raise OptionError(
                    f"stem.strides={self._option}: leave one pixel of maps of {maps} before "
                    "the last; give fewer"
                )
            height, width = (
                (side + 2 * self._padding - self._kernel_size) // step + 1
                for side, step in zip((height, width), stride, strict=True)
            )
            if min(height, width) < 1:
                raise OptionError(
                    f"stem.kernel_size={self._kernel_size}: leaves nothing of maps of {maps} with "
                    f"padding {self._padding}; give a smaller kernel or more padding"
                )
        return height, width

    def forward(self, features: Tensor) -> Tensor:
        """Map (U, input_dim, H, W) to (U, channels, H', W')."""
        if self.rows_as_channels:
            features = features.flatten(1, 2)[:, :, None]  # (U, input_dim H, 1, W)
        x: Tensor = self.layers(features)
        return x
