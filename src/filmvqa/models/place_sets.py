"""Sets of places, by which a question counts in a map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from filmvqa.models.attentive_read import read_scale
from filmvqa.system.devices import at_least_float32


class PlaceSets(nn.Module):
    """Mark sets of a map's places and count them.

    An attentive read cannot count, because it is a mean: two equal objects read like one (Zhang,
    Hare and Prügel-Bennett 2018). Here the question gives a key and a bias for each set. A place's
    membership, between 0 and 1, is a sigmoid of its product with the key plus the bias, and the
    count is the sum over places. Memberships are added to the map, so that the next block can unite
    or intersect sets. The read's attention is added too, so that the next block can exclude what
    was read ("the other cubes").

    Parameters
    ----------
    channels
        Channels C of the map.
    sets
        Number S of sets.
    writes
        Whether memberships and attention are added to the map. False if nothing reads the map.
    """

    def __init__(self, channels: int, sets: int, writes: bool = True) -> None:
        super().__init__()
        self.sets = sets
        self.write = nn.Linear(sets + 1, channels, bias=False) if writes else None

    @staticmethod
    def key_dim(channels: int, sets: int) -> int:
        """Width of the sets' keys and biases."""
        return sets * (channels + 1)

    def forward(
        self, branch: Tensor, keys: Tensor, weights: Tensor | None, read_scores: Tensor
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Mark and count places.

        Parameters
        ----------
        branch
            Vectors of N places (B, N, C), which are compared with the keys.
        keys
            The S keys, then the S biases (B, S (C + 1)).
        weights
            How much each place counts, (B, N) or (B, H, W). None: 1.
        read_scores
            Scores of the read (B, N).

        Returns
        -------
        tuple
            What to add to the map (B, N, C), or None; the counts (B, S); and the scores
            (B, N, S), whose sigmoids are the memberships.
        """
        key, bias = self.split(keys, branch.shape[2])
        scores = torch.baddbmm(bias[:, None], branch, key.transpose(1, 2))  # (B, N, S)
        scores = at_least_float32(scores)
        return *self.mark(torch.sigmoid(scores).to(branch.dtype), weights, read_scores), scores

    def split(self, keys: Tensor, channels: int) -> tuple[Tensor, Tensor]:
        """Split into scaled keys (B, S, C) and biases (B, S)."""
        key = keys[:, : self.sets * channels].reshape(len(keys), self.sets, channels)
        return key * read_scale(channels), keys[:, self.sets * channels :]

    @staticmethod
    def join(parts: Sequence[Tensor]) -> list[Tensor]:
        """Join each set's key and bias (..., C + 1) to all keys (..., S C) and biases (..., S).

        This is the order that ``split`` expects. The list is empty if there are no sets.
        """
        if not parts:
            return []
        return [
            torch.cat([p[..., :-1] for p in parts], -1),
            torch.stack([p[..., -1] for p in parts], -1),
        ]

    def mark(
        self, membership: Tensor, weights: Tensor | None, read_scores: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """``forward`` from the memberships (B, N, S), without the scores."""
        if weights is None:
            weights = membership.new_ones(membership.shape[:2])
        counts = torch.einsum("bns,bn->bs", membership, weights.flatten(1))
        if self.write is None:
            return None, counts
        attention = torch.softmax(at_least_float32(read_scores), 1).to(membership.dtype)
        return self.write(torch.cat([membership, attention[..., None]], 2)), counts


class PlaceWeights(nn.Module):
    """How much each place of a map counts: a sigmoid of a 1×1 convolution of the features.

    A large object covers more places than a small one. If features distinguish an object's centre
    from the rest of it, as ``clevr_cnn``'s do, these weights can count each object once. They are
    computed at the resolution of the features and summed over the area of each place of the map.
    """

    def __init__(self, channels: int, map_size: tuple[int, int]) -> None:
        super().__init__()
        self.map_size = map_size
        self.conv = nn.Conv2d(channels, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (U, C, H, W) to weights (U, h, w), with ``map_size`` (h, w)."""
        weights = torch.sigmoid(at_least_float32(self.conv(features)))  # (U, 1, H, W)
        (height, width), (h, w) = weights.shape[2:], self.map_size
        means = F.adaptive_avg_pool2d(weights, self.map_size)
        return (means * (height * width / (h * w)))[:, 0].to(features.dtype)
