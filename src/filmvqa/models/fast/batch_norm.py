"""Batch norm on a CPU with exact statistics, also in channels-last order, at almost torch's speed.

In channels-last order torch adds up all values of a channel one by one in float32, so that the mean
over 64 maps of 14×14 has an error of 1e-5. Here the same kernel adds up shorter columns first.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from filmvqa.models.batch_norm import (
    EXACT_DTYPES,
    BatchNorm2d,
    SharedStatistics,
    image_counts,
    refuse_single_value,
    track,
    values_per_channel,
)
from filmvqa.system.devices import at_least_float32
from filmvqa.system.processes import tensors_of_all

#: Columns of the table in which channels-last maps are added up. Their sums fit into the L2 cache.
_COLUMNS = 8192


class FastBatchNorm2d(BatchNorm2d):
    """``BatchNorm2d`` by torch's own kernels on a CPU.

    torch's batch norm runs in contiguous order without counts, in bfloat16 without counts, and
    under ``torch.compile``.
    """

    def forward(self, x: Tensor, counts: Tensor | None = None) -> Tensor:
        if not self.training or x.device.type != "cpu" or torch.compiler.is_compiling():
            return super().forward(x, counts)
        counts = image_counts(x) if counts is None else counts
        inexact = x.dtype in EXACT_DTYPES and _is_channels_last(x)
        if self.shared is None and (x.numel() == x.size(1) or (counts is None and not inexact)):
            return super().forward(x, counts)
        maps, size = x, None
        with torch.no_grad():
            if self.shared is not None:
                maps = at_least_float32(x)
            mean, var = _moments(maps) if counts is None else _weighted_moments(maps, counts)
            num_values: Tensor | float = values_per_channel(x, counts)
            if self.shared is not None:
                mean, var, size = self.shared.combine(mean, var, num_values)
                refuse_single_value(size)
                num_values = size
        track(self, mean, var, num_values)
        out: Tensor = _Normalize.apply(
            maps, mean, var, counts, self.weight, self.bias, self.eps, self.shared, size
        )
        return out.to(x.dtype)


def sums_of_all(shared: SharedStatistics, *parts: Tensor) -> tuple[Tensor, ...]:
    """Sum tensors (C,) over all processes, for the gradient through the statistics.

    The sums are zeros if this process's part does not count.
    """
    # For so few numbers, gloo gathers in half of the time of a reduction.
    return (tensors_of_all(torch.stack(parts)).sum(0) * shared.counts).unbind()


class _Normalize(torch.autograd.Function):
    """Batch norm in training by torch's kernels, with given mean and variance (C,).

    They are those of x, or with ``shared`` those of ``size`` values per channel of all processes.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, var: Tensor, counts: Tensor | None,
        weight: Tensor | None, bias: Tensor | None, eps: float,
        shared: SharedStatistics | None, size: Tensor | None,
    ) -> Tensor:  # fmt: skip
        ctx.eps, ctx.shared = eps, shared
        ctx.save_for_backward(x, mean, var, counts, weight, size)
        return torch.native_batch_norm(x, weight, bias, mean, var, False, 0.0, eps)[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, var, counts, weight, size = ctx.saved_tensors
        kernel = torch.ops.aten.native_batch_norm_backward
        invstd = (var + ctx.eps).rsqrt_()
        if counts is None and ctx.shared is None:
            needed = [ctx.needs_input_grad[i] for i in (0, 4, 5)]
            grad_x, grad_weight, grad_bias = kernel(
                grad, x, weight, None, None, mean, invstd, True, ctx.eps, needed
            )
            return grad_x, None, None, None, grad_weight, grad_bias, None, None, None
        # In evaluation mode the kernel returns grad * scale and the sums of grad * normalized x
        # and of grad. The gradient through mean and variance reaches a map ``counts`` times:
        # scale * (grad - counts * (grad_bias + normalized x * grad_weight) / size)
        grad_x, grad_weight, grad_bias = kernel(
            grad, x, weight, mean, var, None, None, False, ctx.eps, [True] * 3
        )
        sums: tuple[Tensor, ...] = (grad_weight, grad_bias)
        if ctx.shared is None:
            size = values_per_channel(x, counts)
        else:
            sums = sums_of_all(ctx.shared, *sums)
        factor = invstd / -size
        if weight is not None:
            factor *= weight
        factor = factor.to(x.dtype)
        through_statistics = torch.native_batch_norm(
            x, factor * sums[0], factor * sums[1], mean, var, False, 0.0, ctx.eps
        )[0]
        if counts is None:
            grad_x += through_statistics
        else:
            grad_x.addcmul_(through_statistics, counts.to(x.dtype).view(-1, 1, 1, 1))
        if weight is None:
            grad_weight = grad_bias = None
        return grad_x, None, None, None, grad_weight, grad_bias, None, None, None


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) of x (U, C, H, W) in an exact dtype."""
    channels, positions = x.size(1), x.numel() // x.size(1)
    if not _is_channels_last(x):
        return torch.batch_norm_update_stats(x, None, None, 0.0)
    # A table with several positions in each row, so that a column has fewer values.
    width = max(_COLUMNS // channels, 1)
    while positions % width:
        width -= 1
    table = x.permute(0, 2, 3, 1).view(positions // width, width * channels)
    means, variances = torch.batch_norm_update_stats(table, None, None, 0.0)
    means, variances = means.view(width, channels), variances.view(width, channels)
    # The variance is the mean of the columns' variances plus the variance of their means. ``sum``
    # adds the means in pairs.
    _, var = torch.batch_norm_update_stats(means, None, None, 0.0)
    return means.sum(0).div_(width), var.add_(variances.sum(0), alpha=1 / width)


def _weighted_moments(x: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) of x (U, C, H, W), where map u counts ``counts[u]`` times."""
    dtype = x.dtype if x.dtype in EXACT_DTYPES else torch.float32
    maps, order = x.contiguous(), (0, 1, 2, 3)
    if _is_channels_last(x):  # each selected row is then contiguous
        maps, order = x.permute(0, 2, 3, 1), (0, 3, 1, 2)
    sizes, moments = [], []
    for count in counts.unique().tolist():  # type: ignore[no-untyped-call]
        maps_of_count = (counts == count).nonzero().flatten()
        sizes.append(count * len(maps_of_count))
        moments.append(_moments(maps.index_select(0, maps_of_count).to(dtype).permute(order)))
    share = torch.tensor(sizes, dtype=torch.float64)[:, None] / sum(sizes)
    means, variances = (torch.stack(values) for values in zip(*moments, strict=True))
    mean = (share * means).sum(0)  # float64
    var = (share * (variances + (means - mean).square())).sum(0)
    return mean.to(dtype), var.to(dtype)
