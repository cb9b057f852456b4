"""Batch norm with exact statistics in channels-last order on a CPU too, for maps that count several
times, and over the batches of several processes."""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from filmvqa.system.processes import tensors_of_all

#: Columns of the table as which channels-last maps are added up: their sums fit the L2 cache.
_COLUMNS = 8192
#: The dtypes in which rounding the output does not hide the errors of the statistics.
_EXACT_DTYPES = (torch.float32, torch.float64)


class SharedStatistics:
    """What the batch norms of a model share to estimate their statistics over all processes' parts
    of a batch (as ``nn.SyncBatchNorm`` does, which is for GPUs alone).

    Attributes
    ----------
    counts : bool
        Whether this process' part counts; it does not where a batch has fewer questions than there
        are processes, and this one only computes what it need not wait for.
    """

    def __init__(self) -> None:
        self.counts = True

    def combine(self, mean: Tensor, var: Tensor, size: Tensor | float) -> tuple[Tensor, ...]:
        """Mean and (biased) variance (C,) of the whole batch, and its number of values per channel,
        from those of this process' part."""
        size = torch.as_tensor(size, dtype=torch.float64, device=mean.device) * self.counts
        own = torch.cat([mean.double(), var.double(), size.view(1)])
        parts = tensors_of_all(own)  # (processes, 2 C + 1)
        total = parts[:, -1].sum()
        share = (parts[:, -1] / total)[:, None]
        means, variances = parts[:, :-1].chunk(2, 1)
        all_mean = (share * means).sum(0)
        all_var = (share * (variances + (means - all_mean).square())).sum(0)
        return all_mean.to(mean.dtype), all_var.to(var.dtype), total

    def sums(self, *parts: Tensor) -> tuple[Tensor, ...]:
        """The sums of tensors (C,) over all processes, by which the gradient flows through the
        statistics: zeros where this process' part does not count, as it has no share in them."""
        # Gathered: for so few numbers gloo takes half of the time of a sum.
        return (tensors_of_all(torch.stack(parts)).sum(0) * self.counts).unbind()


def share_statistics(model: nn.Module) -> SharedStatistics:
    """Let the batch norms of a model estimate their statistics over all processes from now on."""
    shared = SharedStatistics()
    for name, module in model.named_modules():
        if isinstance(module, BatchNorm1d | BatchNorm2d):
            module.shared = shared
        elif isinstance(module, _BatchNorm):
            raise TypeError(f"{name}: models use the batch norms of filmvqa.models.batch_norm")
    return shared


class BatchNorm1d(nn.BatchNorm1d):
    """``nn.BatchNorm1d`` of values (B, C), whose statistics several processes can share."""

    shared: SharedStatistics | None = None

    def forward(self, x: Tensor) -> Tensor:
        if self.shared is None or not self.training:
            return super().forward(x)
        return _normalise_together(self, x[:, :, None, None], None, self.shared).flatten(1)


class BatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with three differences in training; parameters and buffers are the same.

    On a CPU in channels-last order, torch adds up all values of a channel one by one in float32, so
    that the mean over 64 maps of 14×14 has an error of 1e-5. Here the same kernel adds up shorter
    columns first, at nearly the same speed. In contiguous order, in bfloat16, on other devices and
    under ``torch.compile``, torch's batch norm runs.

    Maps can count several times, for images about which a batch has several questions, and several
    processes can share their statistics.
    """

    shared: SharedStatistics | None = None

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
        if self.shared is not None and self.training:
            return _normalise_together(self, x, counts, self.shared)
        on_cpu = x.device.type == "cpu" and not torch.compiler.is_compiling()
        inexact = on_cpu and x.dtype in _EXACT_DTYPES and _is_channels_last(x)
        if not self.training or x.numel() == x.size(1) or (counts is None and not inexact):
            return super().forward(x)
        if not on_cpu and counts is not None:
            return self._weighted(x, counts)
        with torch.no_grad():
            mean, var = _moments(x) if counts is None else _weighted_moments(x, counts)
        track(self, mean, var, _size(x, counts))
        out = _Normalize.apply(x, mean, var, counts, self.weight, self.bias, self.eps, None, None)
        return cast(Tensor, out)

    def _weighted(self, x: Tensor, counts: Tensor) -> Tensor:
        """``forward`` with counts in torch's functions, which do not wait for a device."""
        maps = x if x.dtype in _EXACT_DTYPES else x.float()
        mean, var, centred = _weighted_moments_on_device(maps, counts)
        track(self, mean.detach(), var.detach(), _size(x, counts))
        scale = (var + self.eps).rsqrt()
        if self.affine:
            scale = scale * self.weight
        out = centred * scale[:, None, None]
        if self.affine:
            out = out + self.bias[:, None, None]
        return out.to(x.dtype)


def _size(x: Tensor, counts: Tensor | None) -> Tensor | int:
    """The number of values per channel of maps x (U, C, H, W) that count ``counts`` times (U,)."""
    copies = len(x) if counts is None else counts.sum(dtype=torch.float64)
    return copies * x[0, 0].numel()


@torch.no_grad()
def track(norm: _BatchNorm, mean: Tensor, var: Tensor, size: Tensor | float) -> None:
    """Update a batch norm's running statistics with the mean and (biased) variance (C,) of
    ``size`` values per channel."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    momentum = norm.momentum
    if momentum is None:
        momentum = 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_((var * (size / (size - 1))).to(var.dtype), momentum)


def _normalise_together(
    norm: _BatchNorm, x: Tensor, counts: Tensor | None, shared: SharedStatistics
) -> Tensor:
    """Batch norm in training of maps x (U, C, H, W), over the parts of all processes."""
    maps = x if x.dtype in _EXACT_DTYPES else x.float()
    with torch.no_grad():
        if maps.device.type == "cpu":
            mean, var = _moments(maps) if counts is None else _weighted_moments(maps, counts)
        elif counts is None:
            var, mean = torch.var_mean(maps, (0, 2, 3), correction=0)
        else:
            mean, var, _ = _weighted_moments_on_device(maps, counts)
        mean, var, size = shared.combine(mean, var, _size(x, counts))
    if size.device.type == "cpu" and float(size) == 1:  # elsewhere the check would wait
        raise ValueError("Expected more than 1 value per channel when training")
    track(norm, mean, var, size)
    out = _Normalize.apply(maps, mean, var, counts, norm.weight, norm.bias, norm.eps, shared, size)
    return cast(Tensor, out).to(x.dtype)


class _Normalize(torch.autograd.Function):
    """Batch norm in training by torch's kernels, for a mean and variance (C,) of x, or, with
    ``shared``, of the ``size`` values per channel of all processes."""

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
        # In evaluation mode the kernel returns grad * scale, and the sums of grad * normalized x
        # and of grad. What mean and variance contribute falls to a map ``counts`` times:
        # scale * (grad - counts * (grad_bias + normalized x * grad_weight) / size)
        grad_x, grad_weight, grad_bias = kernel(
            grad, x, weight, mean, var, None, None, False, ctx.eps, [True] * 3
        )
        sums = (grad_weight, grad_bias)
        if ctx.shared is None:
            size = _size(x, counts)
        else:
            sums = ctx.shared.sums(*sums)
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


def _weighted_moments_on_device(maps: Tensor, counts: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """As ``_weighted_moments``, in functions that do not wait for a device and through which the
    gradient flows; also the maps without their mean."""
    share = (counts.to(maps.dtype) / counts.sum())[:, None]  # (U, 1)
    mean = (share * maps.mean((2, 3))).sum(0)  # (C,); autocast would round a product @
    centred = maps - mean[:, None, None]
    return mean, (share * centred.square().mean((2, 3))).sum(0), centred


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
