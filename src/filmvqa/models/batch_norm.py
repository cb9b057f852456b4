"""Batch norm that weighs an image by its questions and can span several processes."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from filmvqa.system import processes
from filmvqa.system.devices import at_least_float32

#: Dtypes precise enough that errors of the statistics show in the output.
EXACT_DTYPES = (torch.float32, torch.float64)

#: Within a model's ``forward``: the index (B,) of each question's image and the number U of images.
#: None if there are as many questions as images.
_images: ContextVar[tuple[Tensor, int] | None] = ContextVar("images", default=None)


def weigh_images(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap a model's ``forward`` so that its batch norms weigh an image by its number of questions.

    This applies to batch norms whose input has one row for each image. The original code computes
    everything once for each question, and so weighs images in the same way. The weights are not
    passed through the modules between model and batch norm, so that no module can forget them.
    """

    @wraps(forward)
    def weighing(
        self: nn.Module, features: Tensor, questions: Tensor,
        image_of_question: Tensor | None = None, **options: Any,
    ) -> Any:  # fmt: skip
        images = None
        if image_of_question is not None and len(image_of_question) != len(features):
            images = (image_of_question, len(features))
        token = _images.set(images)
        try:
            return forward(self, features, questions, image_of_question, **options)
        finally:
            _images.reset(token)

    return weighing


def image_counts(x: Tensor) -> Tensor | None:
    """The number of questions of each image (U,), if x (U, ...) has a row for each image.

    None if each row counts once.
    """
    images = _images.get()
    if images is None or len(x) != images[1]:
        return None
    image_of_question, num_images = images
    return (image_of_question[:, None] == torch.arange(num_images, device=x.device)).sum(0)


class SharedStatistics:
    """State that a model's batch norms share to compute statistics over all processes.

    (``nn.SyncBatchNorm`` does the same, but on GPUs only.)

    Attributes
    ----------
    counts : bool
        Whether this process's part of the batch counts. It does not if the batch has fewer
        questions than there are processes; this process then only takes part in communication.
    """

    def __init__(self) -> None:
        self.counts = True

    def combine(self, mean: Tensor, var: Tensor, size: Tensor | float) -> tuple[Tensor, ...]:
        """Combine mean, biased variance (C,) and number of values per channel of all processes.

        The arguments are those of this process. Gradients flow to all processes.
        """
        size = torch.as_tensor(size, dtype=torch.float64, device=mean.device) * self.counts
        part = torch.cat([mean.double(), var.double(), size.view(1)])
        parts: Tensor = _GatherFromAll.apply(part)  # (processes, 2 C + 1)
        total = parts[:, -1].sum()
        share = (parts[:, -1] / total)[:, None]
        means, variances = parts[:, :-1].chunk(2, 1)
        all_mean = (share * means).sum(0)
        all_var = (share * (variances + (means - all_mean).square())).sum(0)
        return all_mean.to(mean.dtype), all_var.to(var.dtype), total


class _GatherFromAll(torch.autograd.Function):
    """Gather a tensor (N,) of each of P processes as rows (P, N)."""

    @staticmethod
    def forward(ctx: Any, part: Tensor) -> Tensor:
        return processes.tensors_of_all(part)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return processes.tensors_of_all(grad).sum(0)[processes.rank()]


def share_statistics(model: nn.Module) -> SharedStatistics:
    """Make the batch norms of a model compute statistics over all processes from now on."""
    shared = SharedStatistics()
    for name, module in model.named_modules():
        if isinstance(module, _CountingBatchNorm):
            module.shared = shared
        elif isinstance(module, _BatchNorm):
            raise TypeError(f"{name}: models use the batch norms of filmvqa.models.batch_norm")
    return shared


class _CountingBatchNorm(_BatchNorm):
    """Batch norm with two additions in training. Parameters and buffers are torch's.

    A row can count several times, for an image with several questions, and several processes can
    share their statistics.
    """

    shared: SharedStatistics | None = None

    def forward(self, x: Tensor, counts: Tensor | None = None) -> Tensor:
        """Normalise x (U, C) or (U, C, ...).

        In training, row u counts ``counts[u]`` times, with ``counts`` (U,). Output and running
        statistics are those of a batch with so many copies of the row, and the row's gradient is
        the sum of the copies' gradients. None: rows count as ``weigh_images`` says, or once.

        Raises
        ------
        ValueError
            In training, if there is only one value per channel.
        """
        if not self.training:
            return super().forward(x)
        counts = image_counts(x) if counts is None else counts
        if self.shared is None and (counts is None or x.numel() == x.size(1)):
            return super().forward(x)
        maps = x if x.dim() == 4 else x.reshape(*x.shape[:2], -1, 1)
        return _normalise(self, maps, counts).view_as(x)


class BatchNorm1d(_CountingBatchNorm, nn.BatchNorm1d):
    """``nn.BatchNorm1d`` with counts."""


class BatchNorm2d(_CountingBatchNorm, nn.BatchNorm2d):
    """``nn.BatchNorm2d`` with counts."""


def let_batch_norms_count(model: nn.Module) -> None:
    """Turn torch's batch norms in a (user's) model into those of this file, in place."""
    for module in model.modules():
        if type(module) is nn.BatchNorm1d:
            module.__class__ = BatchNorm1d
        elif type(module) is nn.BatchNorm2d:
            module.__class__ = BatchNorm2d


def _normalise(norm: _CountingBatchNorm, x: Tensor, counts: Tensor | None) -> Tensor:
    """Normalise maps x (U, C, H, W) in training, where map u counts ``counts[u]`` times."""
    maps = at_least_float32(x)
    weights = maps.new_ones(len(maps)) if counts is None else counts.to(maps.dtype)
    share = (weights / weights.sum())[:, None]  # (U, 1)
    mean = (share * maps.mean((2, 3))).sum(0)  # (C,); autocast would round a matrix product
    centred = maps - mean[:, None, None]
    var = (share * centred.square().mean((2, 3))).sum(0)
    size = values_per_channel(x, counts)
    if norm.shared is not None:
        mean, var, size = norm.shared.combine(mean, var, size)
        centred = maps - mean[:, None, None]
        refuse_single_value(size)
    track(norm, mean.detach(), var.detach(), size)
    out = centred * (var + norm.eps).rsqrt()[:, None, None]
    if norm.affine:
        out = out * norm.weight[:, None, None] + norm.bias[:, None, None]
    return out.to(x.dtype)


def values_per_channel(x: Tensor, counts: Tensor | None) -> Tensor | int:
    """The number of values per channel of maps x (U, C, H, W) with ``counts`` (U,)."""
    copies = len(x) if counts is None else counts.sum(dtype=torch.float64)
    return copies * x[0, 0].numel()


def refuse_single_value(size: Tensor | float) -> None:
    """Raise ``ValueError``, as torch does, if all processes together have one value per channel."""
    # On a GPU the check would wait for the device.
    if isinstance(size, Tensor) and size.device.type == "cpu" and float(size.detach()) == 1:
        raise ValueError("Expected more than 1 value per channel when training")


@torch.no_grad()
def track(norm: _BatchNorm, mean: Tensor, var: Tensor, size: Tensor | float) -> None:
    """Update running statistics by mean and biased variance (C,) of ``size`` values per channel."""
    if norm.running_mean is None or norm.running_var is None or norm.num_batches_tracked is None:
        return
    norm.num_batches_tracked.add_(1)
    momentum = norm.momentum
    if momentum is None:
        momentum = 1 / float(norm.num_batches_tracked)
    norm.running_mean.lerp_(mean, momentum)
    norm.running_var.lerp_((var * (size / (size - 1))).to(var.dtype), momentum)
