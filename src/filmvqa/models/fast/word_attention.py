"""Attention of a few queries to a question's words, as one operation on a CPU.

A question has about 20 words and 4 queries, so that torch's batched products mostly spend time on
overhead. ``WordAttention.attend`` defines the computation.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from filmvqa.models.fast.kernels import inlined, kernel, kernels_take, over_questions
from filmvqa.models.fast.replacement import is_intact
from filmvqa.models.word_attention import WordAttention


class FastWordAttention(WordAttention):
    """``WordAttention`` whose queries read the words by a kernel."""

    def attend(self, queries: Tensor, words: Tensor, padding: Tensor) -> Tensor:
        if not kernels_take(queries, words) or not is_intact(self):
            return super().attend(queries, words, padding)
        slopes = queries.new_zeros(queries.shape[1]) if self.slopes is None else self.slopes
        fused: Tensor = _Attention.apply(queries, words, (~padding).sum(1), slopes)
        return fused


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, queries: Tensor, words: Tensor, lengths: Tensor, slopes: Tensor
    ) -> Tensor:
        queries, words = queries.contiguous(), words.contiguous()
        weights = queries.new_empty((*queries.shape[:2], words.shape[1]))
        reads = torch.empty_like(queries)
        over_questions(
            _forward_kernel, queries, words, lengths,
            slopes.detach().expand(queries.shape[:2]).contiguous(), weights, reads,
        )  # fmt: skip
        ctx.save_for_backward(queries, words, lengths, weights)
        return reads

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_reads: Tensor) -> tuple[Tensor | None, ...]:
        queries, words, lengths, weights = ctx.saved_tensors
        grad_queries, grad_words = torch.empty_like(queries), torch.zeros_like(words)
        grad_slopes = queries.new_empty(queries.shape[:2])
        over_questions(
            _backward_kernel, queries, words, lengths, weights, grad_reads.contiguous(),
            grad_queries, grad_words, grad_slopes,
        )  # fmt: skip
        return grad_queries, grad_words, None, grad_slopes.sum(0)


@inlined
def _place(t, length):  # type: ignore[no-untyped-def]
    """A word's position, from -1 at the first towards 1."""
    return np.float32(2.0 * t / length - 1.0)


@kernel
def _forward_kernel(start, stop, queries, words, lengths, slopes, weights, reads):  # type: ignore[no-untyped-def]
    num_queries, width = queries.shape[1:]
    scale = np.float32(1.0 / math.sqrt(width))
    for b in range(start, stop):
        length = lengths[b]
        for i in range(num_queries):
            query, weight = queries[b, i], weights[b, i]
            highest = np.float32(-np.inf)
            for t in range(length):
                word = words[b, t]
                score = np.float32(0.0)
                for d in range(width):
                    score += query[d] * word[d]
                weight[t] = score * scale + slopes[b, i] * _place(t, length)
                highest = max(highest, weight[t])
            total = np.float32(0.0)
            for t in range(length):
                weight[t] = np.exp(weight[t] - highest)
                total += weight[t]
            read = np.zeros(width, np.float32)
            for t in range(length):
                weight[t] /= total
                word = words[b, t]
                for d in range(width):
                    read[d] += weight[t] * word[d]
            reads[b, i] = read


@kernel
def _backward_kernel(  # type: ignore[no-untyped-def]
    start, stop, queries, words, lengths, weights, grad_reads, grad_queries, grad_words, grad_slopes
):
    """Add to ``grad_words``, and write the other gradients."""
    num_queries, width = queries.shape[1:]
    scale = np.float32(1.0 / math.sqrt(width))
    weight_grads = np.empty(words.shape[1], np.float32)
    for b in range(start, stop):
        length = lengths[b]
        for i in range(num_queries):
            query, weight, read_grad = queries[b, i], weights[b, i], grad_reads[b, i]
            expected = np.float32(0.0)
            for t in range(length):
                word = words[b, t]
                product = np.float32(0.0)
                for d in range(width):
                    product += read_grad[d] * word[d]
                weight_grads[t] = product
                expected += weight[t] * product
            query_grad, slope_grad = np.zeros(width, np.float32), np.float32(0.0)
            for t in range(length):
                score_grad = scale * weight[t] * (weight_grads[t] - expected)
                slope_grad += score_grad * _place(t, length)
                word, word_grad = words[b, t], grad_words[b, t]
                for d in range(width):
                    query_grad[d] += score_grad * word[d]
                for d in range(width):
                    word_grad[d] += weight[t] * read_grad[d] + score_grad * query[d]
            grad_queries[b, i], grad_slopes[b, i] = query_grad, slope_grad / scale
