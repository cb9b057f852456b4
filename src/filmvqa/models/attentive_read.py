"""The attentive read: what a question looks for in a map, as one vector."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from filmvqa.system.devices import at_least_float32

#: Factor of the scores, so that the attention of a new network differs between positions.
SHARPNESS = 4.0


def read_scale(channels: int) -> float:
    """What the product of a key and a position, of so many channels, is multiplied by."""
    return SHARPNESS / math.sqrt(channels)


def attentive_read(x: Tensor, scored: Tensor, key: Tensor) -> tuple[Tensor, Tensor]:
    """The mean of a map's positions, weighted by a softmax of the products of another with a key.

    It is the read of attention networks (as in MAC, Hudson and Manning 2018, section 3.2.2) without
    weights of its own: the question gives the key, as it gives γ and β.

    Parameters
    ----------
    x
        The map that is read (B, C, H, W).
    scored
        The map that is compared with the key, of the same shape.
    key
        What is looked for (B, C).

    Returns
    -------
    tuple
        The mean (B, C), and the scores of the H W positions (B, H W), of which the weights are the
        softmax.
    """
    scores = at_least_float32(key[:, None] @ scored.flatten(2) * read_scale(x.shape[1]))
    attention = torch.softmax(scores, 2).to(x.dtype)  # (B, 1, H W)
    return (x.flatten(2) @ attention.transpose(1, 2)).squeeze(2), scores[:, 0]
