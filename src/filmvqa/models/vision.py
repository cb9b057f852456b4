"""The parts of a network that process the image: coordinate maps, stem, classifier (section 3)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from filmvqa.models.batch_norm import BatchNorm1d, BatchNorm2d
from filmvqa.models.options import StridesByAxis, check_choice
from filmvqa.settings.typed import Natural, Positive, Probability
from filmvqa.system.devices import compute_dtype
from filmvqa.system.errors import OptionError

#: Which coordinates maps are made of: both, as in the paper, or one of them alone.
AXES = ("xy", "x", "y")


class CoordConv2d(nn.Conv2d):
    """A convolution with coordinate maps appended to its input (section 4.1).

    The maps are each position's x and y, from -1 to 1, or that of ``axes`` alone. ``in_channels``
    does not count them: with both the weight is (out_channels, in_channels + 2, k, k).
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int,
        *,
        axes: str = "xy",
        **kwargs: Any,
    ) -> None:
        super().__init__(in_channels + len(axes), out_channels, kernel_size, **kwargs)
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, in_channels, H, W) to (N, out_channels, H', W')."""
        n, _, height, width = x.shape
        # In the memory format of x; otherwise concatenation would copy x to another one.
        channels_last = x.is_contiguous(memory_format=torch.channels_last)
        memory_format = torch.channels_last if channels_last else torch.contiguous_format
        like_x: dict[str, Any] = {"device": x.device, "dtype": x.dtype}
        shape = (n, len(self.axes), height, width)
        maps = torch.empty(shape, memory_format=memory_format, **like_x)
        if "x" in self.axes:
            maps[:, 0] = torch.linspace(-1, 1, width, **like_x)
        if "y" in self.axes:
            maps[:, -1] = torch.linspace(-1, 1, height, **like_x)[:, None]
        return super().forward(torch.cat([x, maps], 1))


def convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    *,
    coordinates: bool,
    axes: str = "xy",
    **kwargs: Any,
) -> nn.Conv2d:
    """A ``CoordConv2d`` with ``coordinates``, else a ``Conv2d``."""
    if coordinates:
        return CoordConv2d(in_channels, out_channels, kernel_size, axes=axes, **kwargs)
    return nn.Conv2d(in_channels, out_channels, kernel_size, **kwargs)


def for_each_question(x: Tensor, image_of_question: Tensor | None) -> Tensor:
    """What a batch's images have, (U, ...), for each of its questions: (B, ...), in the memory
    order of x. None: x as it is.

    Selecting rows of numbers has a far faster gradient than indexing maps.
    """
    if image_of_question is None:
        return x
    channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    ordered = x.permute(0, 2, 3, 1) if channels_last else x
    selected = ordered.flatten(1).index_select(0, image_of_question)
    selected = selected.view(-1, *ordered.shape[1:])
    return selected.permute(0, 3, 1, 2) if channels_last else selected


#: The ranges to which uint8 pixels can be scaled.
PIXEL_RANGES = ("centered", "unit")


def scale_pixels(features: Tensor, pixel_range: str = "centered") -> Tensor:
    """Stored features (U, C, H, W) in the dtype in which they are to be multiplied.

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
    """Convolutions with batch norm and ReLU, from image features or pixels to the blocks' input.

    Parameters
    ----------
    input_dim
        Channels of the features.
    channels
        Channels of each layer's output.
    axes
        The coordinates that maps are made of, one of ``AXES``.
    height
        Rows of the features, which only ``rows_as_channels`` asks for.
    strides
        Stride of each layer, or its strides over rows and columns; there are as many layers. Pixels
        take several of stride 2.
    kernel_size
        Kernel size of every layer.
    padding
        Padding of every layer; None: half of the kernel size.
    norm
        Whether there is batch norm.
    coordinates
        Whether coordinate maps are appended to the first layer's input; None, which ``FilmNet``
        replaces by its own choice, is no.
    rows_as_channels
        Whether maps of one row are made of the features, with a channel for each of their rows: of
        a spectrogram each frequency is then told from all others from the first layer on.
        ``input_dim`` and the height that ``output_size`` takes are those of the features.
    """

    def __init__(
        self,
        input_dim: int,
        channels: int,
        axes: str = "xy",
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
        both = [(s, s) if isinstance(s, int) else (s[0], s[1]) for s in strides]
        self._strides, self._kernel_size = both, kernel_size
        self._said = [s if isinstance(s, int) else list(s) for s in strides]
        self._padding = kernel_size // 2 if padding is None else padding
        layers: list[nn.Module] = []
        for i, stride in enumerate(both):
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
        """Height and width of the output for features of that height and width.

        Raises
        ------
        OptionError
            If a layer's output would be empty, or a layer of stride 2 or more has an input of one
            pixel. (oneDNN's bfloat16 gradient of such a convolution has uninitialised values.)
        """
        if self.rows_as_channels:
            height = 1
        maps = f"{height}×{width}"
        for stride in self._strides:
            if max(stride) > 1 and max(height, width) == 1:
                raise OptionError(
                    f"stem.strides={self._said}: leave one pixel of maps of {maps} before "
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

    def forward(self, features: Tensor, image_of_question: Tensor | None = None) -> Tensor:
        """Map (U, input_dim, H, W) to (U, channels, H', W').

        With ``image_of_question`` (B,), an image counts in the statistics of batch norm once for
        each of its questions, as in the original code, which computes the stem for each question.
        """
        counts = None
        # As many questions as images: each image has one.
        if (
            self.training
            and image_of_question is not None
            and len(image_of_question) > len(features)
        ):
            images = torch.arange(len(features), device=features.device)
            counts = (image_of_question[:, None] == images).sum(0)  # (U,)
        x = features
        if self.rows_as_channels:
            x = x.flatten(1, 2)[:, :, None]  # (U, input_dim H, 1, W)
        for layer in self.layers:
            x = layer(x, counts) if isinstance(layer, BatchNorm2d) else layer(x)
        return x


#: The pooling layers of the original code.
ORIGINAL_POOLS = (
    "none", "aggressive", *(f"{k}pool{s}" for k in ("max", "avg") for s in (2, 3, 4, 5, 7)),
    "maxpoolfull", "avgpoolfull",
)  # fmt: skip
#: What the last conditioned block gives in place of a pooled map.
BRANCH = "branch"
POOLS = (*ORIGINAL_POOLS, "maxavgpoolfull", BRANCH)


class Classifier(nn.Module):
    """1×1 convolution, batch norm, ReLU, pooling, hidden layers, logits (figure 3, left).

    Parameters
    ----------
    channels
        Channels of the input.
    map_size
        (H, W) of the input.
    num_answers
        Number of answers.
    context_dim
        Width of a vector that the hidden layers are given beside the pooled map; 0: none.
    axes
        The coordinates that maps are made of, one of ``AXES``.
    projection_dim
        Channels of the 1×1 convolution; 0 leaves it out.
    pool
        ``maxpoolfull`` is the paper's global max pooling. The others are the original code's:
        ``maxpool`` or ``avgpool`` over squares with a side of 2, 3, 4, 5 or 7; ``avgpoolfull``;
        ``aggressive``, which is 2×2 max pooling, then global average pooling, and no hidden layers;
        and ``none``. Only here there are ``maxavgpoolfull``, the maximum and the mean side by side,
        and ``branch``: these two of the last conditioned block's modulated branch, before the
        residual connection, which needs a network with ``reads`` and no projection.
    hidden_dims
        Widths of the hidden layers.
    norm
        Whether there is batch norm.
    dropout
        Dropout probability after each hidden layer.
    coordinates
        Whether coordinate maps are appended to the input; None, which ``FilmNet`` replaces by its
        own choice, is no.

    Raises
    ------
    OptionError
        If ``pool`` is unknown, or does not fit the other options.
    """

    def __init__(
        self,
        channels: int,
        map_size: tuple[int, int],
        num_answers: int,
        context_dim: int = 0,
        axes: str = "xy",
        *,
        projection_dim: Natural = 512,
        pool: str = "maxpoolfull",
        hidden_dims: Sequence[Positive] = (1024,),
        norm: bool = True,
        dropout: Probability = 0.0,
        coordinates: bool | None = True,
    ) -> None:
        super().__init__()
        check_choice("pool", pool, POOLS)
        self.project: nn.Module = nn.Identity()
        pool_channels = channels
        self.takes_branch = pool == BRANCH
        if self.takes_branch:
            if projection_dim:
                raise OptionError(
                    f"projection_dim={projection_dim}: pool={BRANCH} has no map to project; give 0"
                )
            if not context_dim:
                raise OptionError(f"pool={BRANCH}: needs reads=true, whose blocks have the branch")
        elif projection_dim:
            conv = convolution(
                channels, projection_dim, 1, coordinates=bool(coordinates), axes=axes
            )
            norms = [BatchNorm2d(projection_dim)] if norm else []
            self.project = nn.Sequential(conv, *norms, nn.ReLU())
            pool_channels = projection_dim
        elif coordinates:
            self.project, pool_channels = _AppendCoordinates(axes), channels + len(axes)
        self.pool, (height, width) = _pooling(pool, map_size)
        if min(height, width) < 1:
            maps = "×".join(map(str, map_size))
            raise OptionError(f"pool={pool}: leaves nothing of maps of {maps}; choose another")
        dims = () if pool == "aggressive" else tuple(hidden_dims)
        pooled_dim = pool_channels * height * width + context_dim
        self.mlp = mlp(pooled_dim, dims, num_answers, norm=norm, dropout=dropout)

    def forward(
        self, x: Tensor, context: Tensor | None = None, branch: Tensor | None = None
    ) -> Tensor:
        """Map (B, channels, H, W), and a context (B, context_dim) if there is one, to logits
        (B, num_answers). With ``pool=branch``, ``branch`` (B, 2 channels) is taken for the map."""
        pooled: Tensor
        if self.takes_branch and branch is not None:
            pooled = branch
        else:
            pooled = self.pool(self.project(x)).flatten(1)
        if context is not None:
            pooled = torch.cat([pooled, context], 1)
        logits: Tensor = self.mlp(pooled)
        return logits


class _GlobalMax(nn.Module):
    """Global max pooling; faster, forward and backward, than ``MaxPool2d`` over the whole map."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax((2, 3))


class _GlobalMaxAndMean(nn.Module):
    """The maximum and the mean over the whole map, as channels side by side."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1)


class _AppendCoordinates(nn.Module):
    """Appends the coordinate maps (section 4.1) to its input."""

    def __init__(self, axes: str) -> None:
        super().__init__()
        self._chosen = slice("xy".index(axes[0]), "xy".index(axes[-1]) + 1)

    def forward(self, x: Tensor) -> Tensor:
        ys, xs = (
            torch.linspace(-1, 1, side, device=x.device, dtype=x.dtype) for side in x.shape[2:]
        )
        maps = torch.stack(torch.meshgrid(ys, xs, indexing="ij")[::-1])[self._chosen]
        maps = maps.expand(len(x), -1, -1, -1)
        return torch.cat([x, maps], 1)


def _pooling(pool: str, map_size: tuple[int, int]) -> tuple[nn.Module, tuple[int, int]]:
    """The original code's pooling layer of that name, and the (H, W) of its output.

    A map that is no multiple of the squares is padded by one position on each side. The size is
    (0, 0) if nothing is left of the map.
    """
    height, width = map_size
    if pool == "none":
        return nn.Identity(), map_size
    if pool == "aggressive":
        average = nn.AvgPool2d((height // 2, height // 2), stride=(width // 2, width // 2))
        return nn.Sequential(nn.MaxPool2d(2, 2), average), (min(height // 2, 1), min(width // 2, 1))
    if pool == BRANCH:
        return nn.Identity(), (2, 1)
    if pool == "maxavgpoolfull":
        return _GlobalMaxAndMean(), (2, 1)
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
    """Hidden layers (linear, batch norm, ReLU, dropout) and a last linear layer."""
    layers: list[nn.Module] = []
    for hidden_dim in hidden_dims:
        layers += [nn.Linear(input_dim, hidden_dim)]
        layers += [BatchNorm1d(hidden_dim)] if norm else []
        layers += [nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
        input_dim = hidden_dim
    return nn.Sequential(*layers, nn.Linear(input_dim, output_dim))
