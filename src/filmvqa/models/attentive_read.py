"""The attentive read: a question's key reads one vector from a map."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from filmvqa.system.devices import at_least_float32

#: Factor of the scores, by which a new network's attention already differs between positions.
SHARPNESS = 4.0


def read_scale(channels: int) -> float:
    """The factor of the product of a key and a position with that many channels."""
    return SHARPNESS / math.sqrt(channels)


def attentive_read(x: Tensor, scored: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """Average a map's positions, weighted by how well another map fits a key.

    The weights are a softmax of the scaled products of key and positions. This is the read of
    attention networks (such as MAC, Hudson and Manning 2018, section 3.2.2), but has no weights:
    the key is computed from the question, as γ and β are.

    Parameters
    ----------
    x
        The map that is averaged (B, C, H, W).
    scored
        The map that is compared with the key, of the same shape.
    key
        The key (B, C).

    Returns
    -------
    tuple
        The mean (B, C), and the scores of the H W positions (B, H W) before the softmax.
    """
    scores = at_least_float32(key[:, None] @ scored.flatten(2) * read_scale(x.shape[1]))
    attention = torch.softmax(scores, 2).to(x.dtype)  # (B, 1, H W)
    return (x.flatten(2) @ attention.transpose(1, 2)).squeeze(2), scores[:, 0]
