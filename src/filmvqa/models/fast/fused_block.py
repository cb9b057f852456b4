"""A conditioned block of a 1×1 convolution with its attentive read, as one operation on a CPU.

On a CPU, memory limits the speed of such a block: batch norm, FiLM, ReLU, the residual connection,
the read and their gradients pass over the maps about thirty times. Here there is one pass in each
direction over a question's map, which fits into the cache, besides batch norm's statistics and the
matrix products. ``FilmedResBlock`` defines the computation; ``tests/models/fast/test_block.py``
compares the two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from filmvqa.models.batch_norm import SharedStatistics
from filmvqa.models.fast.batch_norm import sums_of_all
from filmvqa.models.fast.kernels import kernel, over_questions


class FusedBlock(torch.autograd.Function):
    """A block for B questions with N positions and C channels, in float32 on a CPU.

    Let ẑ be z = weight x + offset, normalised over questions and positions. The modulated branch is
    h = max(γ ẑ + β, 0), the output is x + h, and the read is the mean of the output, weighted by a
    softmax of key · h over positions.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, offset: Tensor, gamma: Tensor, beta: Tensor,
        key: Tensor, set_key: Tensor, set_bias: Tensor, eps: float,
        statistics: tuple[Tensor, Tensor] | None, shared: SharedStatistics | None,
    ) -> tuple[Tensor | float, ...]:  # fmt: skip
        """Compute a block.

        Parameters
        ----------
        x
            (B, N, C).
        weight
            (C, C).
        offset, gamma, beta, key
            (B, C).
        set_key, set_bias
            Keys (B, S, C) and biases (B, S) of sets, as in ``PlaceSets``.
        eps
            Constant that batch norm adds to the variance.
        statistics
            Constant mean and variance (C,) for batch norm. None: the batch's.
        shared
            Computes the batch's statistics over all processes. None: over this process only.

        Returns
        -------
        tuple
            Output (B, N, C); read (B, C); maximum and mean of the modulated branch over the map,
            (B, C) each; scores of the read (B, N) and of the sets (B, N, S); mean and variance of
            batch norm, (C,) each; and the number of values that they are computed from.
        """
        x, offset, key = x.contiguous(), offset.contiguous(), key.contiguous()
        set_key, set_bias = set_key.contiguous(), set_bias.contiguous()
        h = (x.flatten(0, 1) @ weight.T).view_as(x)  # far faster than a 3-D product
        size = float(h.shape[0] * h.shape[1])
        batch_mean, batch_var = _moments(h, offset) if statistics is None else statistics
        if statistics is None and shared is not None:
            batch_mean, batch_var, total = shared.combine(batch_mean, batch_var, size)
            size = float(total)
        inverse = (batch_var + eps).rsqrt()
        scale = gamma * inverse
        shift = beta + (offset - batch_mean) * scale
        y = torch.empty_like(x)
        attention, scores = x.new_empty(x.shape[:2]), x.new_empty(x.shape[:2])
        read, maximum, mean = (torch.empty_like(key) for _ in range(3))
        argmax = torch.empty_like(key, dtype=torch.int32)
        set_scores = x.new_empty(*x.shape[:2], set_bias.shape[1])
        over_questions(
            _forward_kernel, h, x, scale, shift, key, set_key, set_bias, y, attention, read,
            maximum, argmax, mean, scores, set_scores,
        )  # fmt: skip
        ctx.save_for_backward(
            x, weight, offset, gamma, key, set_key, h, batch_mean, inverse, scale, shift, attention,
            argmax,
        )  # fmt: skip
        ctx.normalised_by_batch, ctx.shared, ctx.size = statistics is None, shared, size
        ctx.mark_non_differentiable(batch_mean, batch_var)
        ctx.set_materialize_grads(False)
        return y, read, maximum, mean, scores, set_scores, batch_mean, batch_var, size

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, grad_y: Tensor | None, grad_read: Tensor | None, grad_maximum: Tensor | None,
        grad_mean: Tensor | None, grad_scores: Tensor | None, grad_set_scores: Tensor | None,
        *_: None,
    ) -> tuple[Tensor | None, ...]:  # fmt: skip
        (
            x, weight, offset, gamma, key, set_key, h, batch_mean, inverse, scale, shift, attention,
            argmax,
        ) = ctx.saved_tensors  # fmt: skip
        grad_y = torch.zeros_like(x) if grad_y is None else grad_y.contiguous()
        grad_read, grad_maximum, grad_mean, grad_scores = (
            torch.zeros_like(like) if grad is None else grad.contiguous()
            for like, grad in (
                (key, grad_read), (key, grad_maximum), (key, grad_mean), (attention, grad_scores)
            )
        )  # fmt: skip
        if grad_set_scores is None:
            grad_set_scores = x.new_zeros(*x.shape[:2], set_key.shape[1])
        grad_x, grad_h = torch.empty_like(x), torch.empty_like(x)
        grad_key, grad_set_key = torch.empty_like(key), torch.empty_like(set_key)
        grad_set_bias = set_key.new_empty(set_key.shape[:2])
        sums = key.new_empty((len(key), 2, key.shape[1]))
        over_questions(
            _backward_kernel, h, x, scale, shift, key, set_key, attention, argmax, grad_y,
            grad_read, grad_maximum, grad_mean, grad_scores, grad_set_scores.contiguous(), grad_x,
            grad_h, grad_key, grad_set_key, grad_set_bias, sums,
        )  # fmt: skip
        grad_beta = sums[:, 0]
        grad_gamma = inverse * (sums[:, 1] + (offset - batch_mean) * grad_beta)
        slope = torch.zeros_like(inverse)
        constant = torch.zeros_like(offset)
        if ctx.normalised_by_batch:
            totals: tuple[Tensor, ...] = ((gamma * grad_gamma).sum(0), (gamma * grad_beta).sum(0))
            if ctx.shared is not None:
                totals = sums_of_all(ctx.shared, *totals)
            slope = inverse.square() * totals[0] / ctx.size
            constant = inverse * totals[1] / ctx.size + slope * (offset - batch_mean)
        grad_offset = torch.empty_like(offset)
        over_questions(_norm_kernel, h, scale, slope, constant, grad_h, grad_offset)
        rows = grad_h.flatten(0, 1)  # (B N, C)
        grad_x.flatten(0, 1).addmm_(rows, weight)
        grad_weight = rows.T @ x.flatten(0, 1)
        return (
            grad_x, grad_weight, grad_offset, grad_gamma, grad_beta, grad_key, grad_set_key,
            grad_set_bias, None, None, None,
        )  # fmt: skip


def _moments(h: Tensor, offset: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance (C,) of h + offset (B, N, C).

    Sums are over differences from one of the values, because squares of large values would hide a
    small variance.
    """
    pivot = h[0, 0] + offset[0]
    sums = h.new_empty((len(h), 2, h.shape[2]))
    over_questions(_sums_kernel, h, offset - pivot, sums)
    first, second = sums.sum(0, dtype=torch.float64) / (h.shape[0] * h.shape[1])
    mean, var = pivot + first, (second - first.square()).clamp(min=0)
    return mean.to(h.dtype), var.to(h.dtype)


# The kernels process questions from ``start`` to ``stop`` and write their results into arrays.


@kernel
def _sums_kernel(start, stop, h, offset, sums):  # type: ignore[no-untyped-def]
    """``sums`` (B, 2, C): sums of h + offset and of its square over each question's map."""
    positions, channels = h.shape[1:]
    for b in range(start, stop):
        first = np.zeros(channels, np.float32)
        second = np.zeros(channels, np.float32)
        base = offset[b]
        for n in range(positions):
            for c in range(channels):
                value = h[b, n, c] + base[c]
                first[c] += value
                second[c] += value * value
        sums[b, 0] = first
        sums[b, 1] = second


@kernel
def _forward_kernel(  # type: ignore[no-untyped-def]
    start, stop, h, x, scale, shift, key, set_key, set_bias, y, attention, read, maximum, argmax,
    mean, scores, set_scores,
):  # fmt: skip
    """Compute output, attention, read, pooled branch and scores.

    The branch is max(scale h + shift, 0).
    """
    positions, channels = h.shape[1:]
    zero = np.float32(0.0)
    for b in range(start, stop):
        a, c0, k = scale[b], shift[b], key[b]
        total = np.zeros(channels, np.float32)
        branch = np.empty(channels, np.float32)
        weights = attention[b]
        highest = np.float32(-np.inf)
        for n in range(positions):
            score = zero
            for c in range(channels):
                value = a[c] * h[b, n, c] + c0[c]
                value = zero if value <= zero else value
                y[b, n, c] = x[b, n, c] + value
                branch[c] = value
                score += k[c] * value
                total[c] += value
            weights[n] = score
            scores[b, n] = score
            for s in range(set_bias.shape[1]):
                set_score = set_bias[b, s]
                for c in range(channels):
                    set_score += set_key[b, s, c] * branch[c]
                set_scores[b, n, s] = set_score
            highest = max(highest, score)
        normaliser = zero
        for n in range(positions):
            weights[n] = np.exp(weights[n] - highest)
            normaliser += weights[n]
        average = np.zeros(channels, np.float32)
        largest = np.full(channels, zero, np.float32)
        where = np.zeros(channels, np.int32)
        for n in range(positions):
            weights[n] /= normaliser
            for c in range(channels):
                average[c] += weights[n] * y[b, n, c]
            for c in range(channels):
                value = a[c] * h[b, n, c] + c0[c]
                is_larger = value > largest[c]
                largest[c] = value if is_larger else largest[c]
                where[c] = np.int32(n) if is_larger else where[c]
        read[b] = average
        maximum[b] = largest
        argmax[b] = where
        mean[b] = total / np.float32(positions)


@kernel
def _backward_kernel(  # type: ignore[no-untyped-def]
    start, stop, h, x, scale, shift, key, set_key, attention, argmax, grad_y, grad_read,
    grad_maximum, grad_mean, grad_scores, grad_set_scores, grad_x, grad_branch, grad_key,
    grad_set_key, grad_set_bias, sums,
):  # fmt: skip
    """Compute gradients of x through the residual connection, of scale h + shift, and of the keys.

    ``sums`` (B, 2, C): sums over each question's map of the gradient of scale h + shift, and of its
    product with h.
    """
    positions, channels = h.shape[1:]
    zero = np.float32(0.0)
    attention_grad = np.empty(positions, np.float32)
    set_grad = np.empty(channels, np.float32)
    for b in range(start, stop):
        a, c0, k, r = scale[b], shift[b], key[b], grad_read[b]
        expected = zero
        for n in range(positions):
            product = zero
            for c in range(channels):
                value = a[c] * h[b, n, c] + c0[c]
                product += r[c] * (x[b, n, c] + (zero if value <= zero else value))
            attention_grad[n] = product
            expected += attention[b, n] * product
        key_grad = np.zeros(channels, np.float32)
        first = np.zeros(channels, np.float32)
        second = np.zeros(channels, np.float32)
        mean_grad = grad_mean[b] / np.float32(positions)
        at, maximum_grad = argmax[b], grad_maximum[b]
        grad_set_key[b] = zero
        grad_set_bias[b] = zero
        for n in range(positions):
            weight = attention[b, n]
            score_grad = weight * (attention_grad[n] - expected) + grad_scores[b, n]
            set_grad[:] = zero
            for s in range(set_key.shape[1]):
                set_score_grad = grad_set_scores[b, n, s]
                grad_set_bias[b, s] += set_score_grad
                for c in range(channels):
                    value = a[c] * h[b, n, c] + c0[c]
                    set_grad[c] += set_score_grad * set_key[b, s, c]
                    grad_set_key[b, s, c] += set_score_grad * (zero if value <= zero else value)
            for c in range(channels):
                value = a[c] * h[b, n, c] + c0[c]
                is_off = value <= zero
                output_grad = grad_y[b, n, c] + weight * r[c]
                grad_x[b, n, c] = output_grad
                key_grad[c] += score_grad * (zero if is_off else value)
                grad = output_grad + score_grad * k[c] + mean_grad[c] + set_grad[c]
                grad += maximum_grad[c] if at[c] == n else zero
                grad = zero if is_off else grad
                grad_branch[b, n, c] = grad
                first[c] += grad
                second[c] += grad * h[b, n, c]
        grad_key[b] = key_grad
        sums[b, 0] = first
        sums[b, 1] = second


@kernel
def _norm_kernel(  # type: ignore[no-untyped-def]
    start, stop, h, scale, slope, constant, grad_branch, grad_offset
):
    """Convert the gradient of scale h + shift to the gradient of h, in place.

    That is scale times it, minus slope h + constant, the gradient through mean and variance.
    ``grad_offset`` is the sum of the result over each question's map.
    """
    positions, channels = h.shape[1:]
    for b in range(start, stop):
        total = np.zeros(channels, np.float32)
        a, c0 = scale[b], constant[b]
        for n in range(positions):
            for c in range(channels):
                value = a[c] * grad_branch[b, n, c] - slope[c] * h[b, n, c] - c0[c]
                grad_branch[b, n, c] = value
                total[c] += value
        grad_offset[b] = total
