"""Counting floating-point operations."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def count_operations() -> FlopCounterMode:
    """A context that counts the operations of matrix products and convolutions, and of recurrent
    networks that cuDNN runs whole, which torch's own counter leaves out."""
    custom: dict[Any, Any] = {
        torch.ops.aten._cudnn_rnn: rnn_operations,
        torch.ops.aten._cudnn_rnn_backward: rnn_gradient_operations,
    }
    return FlopCounterMode(display=False, custom_mapping=custom)


def rnn_operations(words: torch.Size, weights: list[torch.Size], *_: Any, **__: Any) -> int:
    """The operations of one layer over packed words (M, E), from its weights' shapes: a product of
    each word or state with each matrix."""
    return 2 * words[0] * sum(math.prod(shape) for shape in weights if len(shape) == 2)


def rnn_gradient_operations(
    words: torch.Size, weights: list[torch.Size], *_: Any, **__: Any
) -> int:
    """As ``rnn_operations``, of the gradients: those of states and words, and those of matrices."""
    return 2 * rnn_operations(words, weights)
