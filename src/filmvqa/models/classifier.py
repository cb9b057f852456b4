"""The classifier, which maps the last block's output to logits (figure 3, left)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from filmvqa.models.batch_norm import BatchNorm1d, BatchNorm2d
from filmvqa.models.options import Axes, check_choice
from filmvqa.models.vision import append_coordinates, convolution
from filmvqa.settings.typed import Natural, Positive, Probability
from filmvqa.system.errors import OptionError

#: The pooling layers of the original code.
ORIGINAL_POOLS = (
    "none", "aggressive", *(f"{k}pool{s}" for k in ("max", "avg") for s in (2, 3, 4, 5, 7)),
    "maxpoolfull", "avgpoolfull",
)  # fmt: skip
#: Use the conditioned block's pooled branch instead of a pooled map.
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
        Width of a context vector that is appended to the pooled map; 0: no context.
    axes
        Coordinates of the coordinate maps.
    num_branches
        Number of blocks whose branches are the input, with ``pool=branch``.
    projection_dim
        Channels of the 1×1 convolution. 0 omits it.
    pool
        ``maxpoolfull`` is the paper's global max pooling. The original code also has ``maxpool``
        and ``avgpool`` over squares with a side of 2, 3, 4, 5 or 7; ``avgpoolfull``;
        ``aggressive``, which is 2×2 max pooling, then global average pooling, and no hidden
        layers; and ``none``. New are ``maxavgpoolfull``, which concatenates maximum and mean, and
        ``branch``, which takes maximum and mean of a conditioned block's modulated branch before
        the residual connection. ``branch`` needs a network with ``reads`` and no projection.
    hidden_dims
        Widths of the hidden layers.
    norm
        Whether there is batch norm.
    dropout
        Dropout probability after each hidden layer.
    coordinates
        Whether to append coordinate maps to the input. None, which ``FilmNet`` replaces by its own
        choice, means no.

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
        axes: Axes = "xy",
        num_branches: int = 1,
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
        height *= num_branches if self.takes_branch else 1
        if min(height, width) < 1:
            maps = "×".join(map(str, map_size))
            raise OptionError(f"pool={pool}: leaves nothing of maps of {maps}; choose another")
        dims = () if pool == "aggressive" else tuple(hidden_dims)
        pooled_dim = pool_channels * height * width + context_dim
        self.mlp = mlp(pooled_dim, dims, num_answers, norm=norm, dropout=dropout)

    def forward(
        self, x: Tensor, context: Tensor | None = None, branch: Tensor | None = None
    ) -> Tensor:
        """Map (B, channels, H, W), and a context (B, context_dim) if any, to logits.

        Logits are (B, num_answers). With ``pool=branch``, ``branch``
        (B, num_branches × 2 channels) replaces the pooled map.
        """
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
    """Global max pooling, faster in both directions than ``MaxPool2d`` over the whole map."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax((2, 3))


class _GlobalMaxAndMean(nn.Module):
    """Global max and mean pooling, concatenated as channels."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1)


class _AppendCoordinates(nn.Module):
    """``append_coordinates`` as a module."""

    def __init__(self, axes: Axes) -> None:
        super().__init__()
        self.axes = axes

    def forward(self, x: Tensor) -> Tensor:
        # Contiguous, because the order decides how pooling rounds.
        return append_coordinates(x.contiguous(), self.axes)


def _pooling(pool: str, map_size: tuple[int, int]) -> tuple[nn.Module, tuple[int, int]]:
    """Build the pooling layer ``pool``, and compute the (H, W) of its output.

    If squares do not divide the map, it is padded by one position on each side. The size is
    (0, 0) if the output is empty.
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
    """Build hidden layers (linear, batch norm, ReLU, dropout) and a last linear layer."""
    layers: list[nn.Module] = []
    for hidden_dim in hidden_dims:
        layers += [nn.Linear(input_dim, hidden_dim)]
        layers += [BatchNorm1d(hidden_dim)] if norm else []
        layers += [nn.ReLU(), *([nn.Dropout(dropout)] if dropout else [])]
        input_dim = hidden_dim
    return nn.Sequential(*layers, nn.Linear(input_dim, output_dim))
