"""Batch norm of feature maps, with exact statistics in channels-last order on a CPU too, and for
maps that count several times."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn

#: Columns of the table as which channels-last maps are added up: their sums fit the L2 cache.
_COLUMNS = 8192
#: The dtypes in which rounding the output does not hide the errors of the statistics.
_EXACT_DTYPES = (torch.float32, torch.float64)


class BatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with two differences in training; parameters and buffers are the same.

    On a CPU in channels-last order, torch adds up all values of a channel one by one in float32, so
    that the mean over 64 maps of 14×14 has an error of 1e-5. Here the same kernel adds up shorter
    columns first, at nearly the same speed. In contiguous order, in bfloat16, on other devices and
    under ``torch.compile``, torch's batch norm runs.

    Maps can count several times, for images about which a batch has several questions.
    """

    def forward(self, x: Tensor, counts: Tensor | None = None) -> Tensor:
        """Normalise x (U, C, H, W).

        With ``counts`` (U,), map u counts ``counts[u]`` times in training: output, gradients and
        running statistics are those of a batch that repeats it so many times, if the gradients of
        its copies are added up. None: each map counts once.

        Raises
        ------
        ValueError
            In training, if there is only one value per channel.
        """
        on_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()
        inexact = on_cpu and x.dtype in _EXACT_DTYPES and _is_channels_last(x)
        if not self.training or x.numel() == x.size(1) or (counts is None and not inexact):
            return super().forward(x)
        if not on_cpu and counts is not None:
            return self._weighted(x, counts)
        with torch.no_grad():
            mean, var = _moments(x) if counts is None else _weighted_moments(x, counts)
        self.track(mean, var, x, counts)
        out = _Normalize.apply(x, mean, var, counts, self.weight, self.bias, self.eps)
        return cast(Tensor, out)

    def _weighted(self, x: Tensor, counts: Tensor) -> Tensor:
        """``forward`` with counts in torch's functions, which do not wait for a device."""
        maps = x if x.dtype in _EXACT_DTYPES else x.float()
        share = (counts.to(maps.dtype) / counts.sum())[:, None]  # (U, 1)
        mean = (share * maps.mean((2, 3))).sum(0)  # (C,); autocast would round a product @
        centred = maps - mean[:, None, None]
        var = (share * centred.square().mean((2, 3))).sum(0)
        self.track(mean.detach(), var.detach(), x, counts)
        scale = (var + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        out = centred * scale[:, None, None]
        if self.affine:
            out = out + self.bias[:, None, None]
        return out.to(x.dtype)

    @torch.no_grad()
    def track(self, mean: Tensor, var: Tensor, x: Tensor, counts: Tensor | None = None) -> None:
        """Update the running statistics with the mean and (biased) variance (C,) of a batch x."""
        running_mean, running_var = self.running_mean, self.running_var
        batches = self.num_batches_tracked
        if running_mean is None or running_var is None or batches is None:
            return
        batches.add_(1)
        momentum = 1 / float(batches) if self.momentum is None else self.momentum
        copies = len(x) if counts is None else counts.sum(dtype=torch.float64)
        size = copies * x[0, 0].numel()
        running_mean.lerp_(mean, momentum)
        running_var.lerp_(var * (size / (size - 1)), momentum)


class _Normalize(torch.autograd.Function):
    """Batch norm in training on a CPU by torch's kernels, for a mean and variance (C,) of x."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, mean: Tensor, var: Tensor, counts: Tensor | None,
        weight: Tensor | None, bias: Tensor | None, eps: float,
    ) -> Tensor:  # fmt: skip
        ctx.eps = eps
        ctx.save_for_backward(x, mean, var, counts, weight)
        return torch.native_batch_norm(x, weight, bias, mean, var, False, 0.0, eps)[0]

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, var, counts, weight = ctx.saved_tensors
        kernel = torch.ops.aten.native_batch_norm_backward
        invstd = (var + ctx.eps).rsqrt_()
        if counts is None:
            needed = [ctx.needs_input_grad[i] for i in (0, 4, 5)]
            grad_x, grad_weight, grad_bias = kernel(
                grad, x, weight, None, None, mean, invstd, True, ctx.eps, needed
            )
            return grad_x, None, None, None, grad_weight, grad_bias, None
        # In evaluation mode the kernel returns grad * scale, and the sums of grad * normalized x
        # and of grad. What mean and variance contribute falls to a map ``counts`` times:
        # scale * (grad - counts * (grad_bias + normalized x * grad_weight) / size)
        grad_x, grad_weight, grad_bias = kernel(
            grad, x, weight, mean, var, None, None, False, ctx.eps, [True] * 3
        )
        factor = invstd / (counts.sum() * -x[0, 0].numel())
        if weight is not None:
            factor *= weight
        shared = torch.native_batch_norm(
            x, factor * grad_weight, factor * grad_bias, mean, var, False, 0.0, ctx.eps
        )[0]
        grad_x.addcmul_(shared, counts.to(x.dtype).view(-1, 1, 1, 1))
        if weight is None:
            grad_weight = grad_bias = None
        return grad_x, None, None, None, grad_weight, grad_bias, None


def _is_channels_last(x: Tensor) -> bool:
    return x.is_contiguous(memory_format=torch.channels_last)


def _moments(x: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) of each channel of x (U, C, H, W), whose dtype is exact."""
    channels, positions = x.size(1), x.numel() // x.size(1)
    if not _is_channels_last(x):
        return torch.batch_norm_update_stats(x, None, None, 0.0)
    # A table with several positions in a row: a column has all channels' values of few positions.
    width = max(_COLUMNS // channels, 1)
    while positions % width:
        width -= 1
    table = x.permute(0, 2, 3, 1).view(positions // width, width * channels)
    means, variances = torch.batch_norm_update_stats(table, None, None, 0.0)
    means, variances = means.view(width, channels), variances.view(width, channels)
    # The variance is the mean of the columns' variances plus the variance of their means. The mean
    # is added up by ``sum``, which adds in pairs.
    _, var = torch.batch_norm_update_stats(means, None, None, 0.0)
    return means.sum(0).div_(width), var.add_(variances.sum(0), alpha=1 / width)


def _weighted_moments(x: Tensor, counts: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) of x (U, C, H, W), where map u counts ``counts[u]`` times (U,)."""
    dtype = x.dtype if x.dtype in _EXACT_DTYPES else torch.float32
    maps, order = x.contiguous(), (0, 1, 2, 3)
    if _is_channels_last(x):  # the rows that are selected are one piece of memory each
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
