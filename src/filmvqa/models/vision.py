"""The parts of networks that see: coordinate maps, stem, classifier (section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from filmvqa.devices import compute_dtype
from filmvqa.errors import OptionError
from filmvqa.models.options import Natural, Positive, Probability, check_choice


class CoordConv2d(nn.Conv2d):
    """A convolution of x with two maps appended, each place's x and y from -1 to 1 (section 4.1):
    (N, C, H, W) to (N, D, H', W'); the weight is (D, C + 2, k, k)."""

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, **kwargs: Any
    ) -> None:
        super().__init__(in_channels + 2, out_channels, kernel_size, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        # In x's own memory order: another would cost a reordering of all of x.
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        like_x: dict[str, Any] = {"device": x.device, "dtype": x.dtype}
        maps = torch.empty((n, 2, height, width), memory_format=memory_format, **like_x)
        maps[:, 0] = torch.linspace(-1, 1, width, **like_x)
        maps[:, 1] = torch.linspace(-1, 1, height, **like_x)[:, None]
        return super().forward(torch.cat([x, maps], 1))


def convolution(
    in_channels: int, out_channels: int, kernel_size: int, *, coordinates: bool, **kwargs: Any
) -> nn.Conv2d:
    """A convolution with or without coordinate maps in its input."""
    conv_type = CoordConv2d if coordinates else nn.Conv2d
    return conv_type(in_channels, out_channels, kernel_size, **kwargs)


def scale_pixels(features: Tensor) -> Tensor:
    """Stored features in the precision of the products to come, in the memory order in which they
    are: uint8 pixels to [-2, 2], which bfloat16 holds exactly, half precision as it is."""
    scaled = features.to(compute_dtype(features))
    return scaled / 64.0 - 2.0 if features.dtype == torch.uint8 else scaled


class Stem(nn.Module):
    """Convolutions with batch norm and ReLU that fit image features to the blocks' width.

    With ``strides`` of 2, one a layer, it also makes maps of raw pixels. Coordinate maps join
    the first layer's input.
    """

    def __init__(
        self,
        input_dim: int,
        channels: int,
        *,
        strides: Sequence[Positive] = (1,),
        kernel_size: Positive = 3,
        padding: Natural | None = None,
        norm: bool = True,
        coordinates: bool = True,
    ) -> None:
        super().__init__()
        self._strides, self._kernel_size = tuple(strides), kernel_size
        self._padding = kernel_size // 2 if padding is None else padding
        layers: list[nn.Module] = []
        for i, stride in enumerate(strides):
            layers.append(
                convolution(
                    channels if i else input_dim, channels, kernel_size,
                    coordinates=coordinates and i == 0, stride=stride, padding=self._padding,
                )
            )  # fmt: skip
            layers += [nn.BatchNorm2d(channels), nn.ReLU()] if norm else [nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """The size of the maps that it makes of features of that size.

        Raises
        ------
        OptionError
            If there is nothing left to stride over. (oneDNN's bfloat16 gradient of a strided
            convolution of one pixel has values that nobody wrote.)
        """
        maps = f"{height}×{width}"
        for stride in self._strides:
            if stride > 1 and max(height, width) == 1:
                raise OptionError(
                    f"the stem's strides {self._strides} leave one pixel before the last; "
                    "give fewer"
                )
            height, width = (
                (side + 2 * self._padding - self._kernel_size) // stride + 1
                for side in (height, width)
            )
            if min(height, width) < 1:
                raise OptionError(
                    f"the stem's kernel of {self._kernel_size} with padding {self._padding} leaves "
                    f"nothing of maps of {maps}; give a smaller kernel or more padding"
                )
        return height, width

    def forward(self, features: Tensor) -> Tensor:
        """(U, input_dim, H, W) to (U, channels, H', W')."""
        maps: Tensor = self.layers(features)
        return maps


POOLS = ("none", "aggressive", *(f"{k}pool{s}" for k in ("max", "avg") for s in (2, 3, 4, 5, 7)),
         "maxpoolfull", "avgpoolfull")  # fmt: skip


class Classifier(nn.Module):
    """1×1 convolution, batch norm, ReLU, pooling, hidden layers, logits (figure 3, left).

    Parameters
    ----------
    map_size
        (H, W) of the maps that come in.
    projection_dim
        Channels of the 1×1 convolution; 0: none.
    pool
        ``maxpoolfull`` is the paper's global max pool. The others are the original code's:
        ``max`` or ``avg`` over squares of 2, 3, 4, 5, 7 or all, ``aggressive`` (2×2 max, then
        average of what is left, and no hidden layers), ``none``.
    """

    def __init__(
        self,
        channels: int,
        map_size: tuple[int, int],
        num_answers: int,
        *,
        projection_dim: Natural = 512,
        pool: str = "maxpoolfull",
        hidden_dims: Sequence[Positive] = (1024,),
        norm: bool = True,
        dropout: Probability = 0.0,
        coordinates: bool = True,
    ) -> None:
        super().__init__()
        check_choice("pool", pool, POOLS)
        self.project: nn.Module = nn.Identity()
        pool_channels = channels
        if projection_dim:
            conv = convolution(channels, projection_dim, 1, coordinates=coordinates)
            norms = [nn.BatchNorm2d(projection_dim)] if norm else []
            self.project = nn.Sequential(conv, *norms, nn.ReLU())
            pool_channels = projection_dim
        elif coordinates:
            self.project, pool_channels = _AppendCoordinates(), channels + 2
        self.pool, (height, width) = _pooling(pool, map_size)
        dims = () if pool == "aggressive" else tuple(hidden_dims)
        pooled_dim = pool_channels * height * width
        self.mlp = mlp(pooled_dim, dims, num_answers, norm=norm, dropout=dropout)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to logits (B, num_answers)."""
        logits: Tensor = self.mlp(self.pool(self.project(x)).flatten(1))
        return logits


class _GlobalMax(nn.Module):
    """Faster forwards and backwards than a pooling layer over the whole map."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax((2, 3))


class _AppendCoordinates(nn.Module):
    """Appends the coordinate maps where no convolution does it."""

    def forward(self, x: Tensor) -> Tensor:
        ys, xs = (
            torch.linspace(-1, 1, side, device=x.device, dtype=x.dtype) for side in x.shape[2:]
        )
        maps = torch.stack(torch.meshgrid(ys, xs, indexing="ij")[::-1]).expand(len(x), -1, -1, -1)
        return torch.cat([x, maps], 1)


def _pooling(pool: str, map_size: tuple[int, int]) -> tuple[nn.Module, tuple[int, int]]:
    """The original code's pooling layers, and the size of their maps.

    Where squares do not fit the map it is padded by one row on each side.
    """
    height, width = map_size
    if pool == "none":
        return nn.Identity(), map_size
    if pool == "aggressive":
        average = nn.AvgPool2d((height // 2, height // 2), stride=(width // 2, width // 2))
        return nn.Sequential(nn.MaxPool2d(2, 2), average), (1, 1)
    if pool == "maxpoolfull" and height == width:
        return _GlobalMax(), (1, 1)
    side = height if pool.endswith("full") else int(pool[-1])
    padding = 0 if height % side == 0 and width % side == 0 else 1
    pool_type = nn.MaxPool2d if pool.startswith("max") else nn.AvgPool2d
    pooled_size = ((height + 2 * padding) // side, (width + 2 * padding) // side)
    return pool_type(side, side, padding=padding), pooled_size


def mlp(
    input_dim: int,
    hidden_dims: Sequence[int],
    output_dim: int,
    *,
    norm: bool = True,
    dropout: float = 0.0,
) -> nn.Sequential:
    """Linear layers with batch norm, ReLU and dropout between them."""
    layers: list[nn.Module] = []
    for hidden_dim in hidden_dims:
        layers += [nn.Linear(input_dim, hidden_dim)]
        layers += [nn.BatchNorm1d(hidden_dim)] if norm else []
        layers += [nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
        input_dim = hidden_dim
    return nn.Sequential(*layers, nn.Linear(input_dim, output_dim))
