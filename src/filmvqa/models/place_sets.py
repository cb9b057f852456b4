"""Sets of places: what a question counts in a map."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from filmvqa.models.attentive_read import read_scale
from filmvqa.system.devices import at_least_float32


class PlaceSets(nn.Module):
    """Marks sets of a map's places and counts them.

    An attentive read is a mean: two equal objects read like one (Zhang, Hare and Prügel-Bennett
    2018), so that it cannot count. Here the question gives a key and a bias for each set; a place
    belongs to it by a sigmoid of the key's product with the place, between 0 and 1, and the number
    is the sum. What belongs is added to the map, so that the next block can unite or intersect
    sets, and the read's attention, so that it can leave out what was read ("the other cubes").

    Parameters
    ----------
    channels
        Channels C of the map.
    sets
        Number S of sets.
    writes
        Whether what belongs and what was read is added to the map; not where nothing reads the map
        any more.
    """

    def __init__(self, channels: int, sets: int, writes: bool = True) -> None:
        super().__init__()
        self.sets = sets
        self.write = nn.Linear(sets + 1, channels, bias=False) if writes else None

    @staticmethod
    def key_dim(channels: int, sets: int) -> int:
        """How many numbers of a question the sets need: keys and biases."""
        return sets * (channels + 1)

    def forward(
        self, branch: Tensor, keys: Tensor, weights: Tensor | None, read_scores: Tensor
    ) -> tuple[Tensor | None, Tensor, Tensor]:
        """Mark and count places.

        Parameters
        ----------
        branch
            What is compared with the keys (B, N, C), at N places.
        keys
            (B, S (C + 1)): the S keys, then the S biases.
        weights
            What each place counts, (B, N) or (B, H, W); None: one.
        read_scores
            The scores (B, N) of the read.

        Returns
        -------
        tuple
            What is to be added to the map (B, N, C), if anything, the numbers (B, S), and the
            scores (B, N, S) of which what belongs is the sigmoid.
        """
        key, bias = self.split(keys, branch.shape[2])
        scores = torch.baddbmm(bias[:, None], branch, key.transpose(1, 2))  # (B, N, S)
        scores = at_least_float32(scores)
        return *self.mark(torch.sigmoid(scores).to(branch.dtype), weights, read_scores), scores

    def split(self, keys: Tensor, channels: int) -> tuple[Tensor, Tensor]:
        """The keys (B, S, C), scaled, and the biases (B, S)."""
        key = keys[:, : self.sets * channels].reshape(len(keys), self.sets, channels)
        return key * read_scale(channels), keys[:, self.sets * channels :]

    @staticmethod
    def join(parts: Sequence[Tensor]) -> list[Tensor]:
        """Keys and biases (..., S C) and (..., S), as ``split`` takes them, of each set's key and
        bias (..., C + 1); none if there are no sets."""
        if not parts:
            return []
        return [
            torch.cat([p[..., :-1] for p in parts], -1),
            torch.stack([p[..., -1] for p in parts], -1),
        ]

    def mark(
        self, belongs: Tensor, weights: Tensor | None, read_scores: Tensor
    ) -> tuple[Tensor | None, Tensor]:
        """As ``forward``, of what belongs (B, N, S), but for the scores."""
        if weights is None:
            weights = belongs.new_ones(belongs.shape[:2])
        counts = torch.einsum("bns,bn->bs", belongs, weights.flatten(1))
        if self.write is None:
            return None, counts
        attention = torch.softmax(at_least_float32(read_scores), 1).to(belongs.dtype)
        return self.write(torch.cat([belongs, attention[..., None]], 2)), counts


class PlaceWeights(nn.Module):
    """What each place of a map counts: a sigmoid of a 1×1 convolution of the image's features.

    A large object covers more places than a small one. Features that tell an object's centre from
    the rest of it, as ``clevr_cnn``'s do, make this a weight of one for each object. The weights
    are of the features' own places, and are summed over those that one place of the map stands for.
    """

    def __init__(self, channels: int, map_size: tuple[int, int]) -> None:
        super().__init__()
        self.map_size = map_size
        self.conv = nn.Conv2d(channels, 1, 1)

    def forward(self, features: Tensor) -> Tensor:
        """Map features (U, C, H, W) to weights (U, h, w) of a map of ``map_size``."""
        weights = torch.sigmoid(at_least_float32(self.conv(features)))  # (U, 1, H, W)
        (height, width), (h, w) = weights.shape[2:], self.map_size
        means = F.adaptive_avg_pool2d(weights, self.map_size)
        return (means * (height * width / (h * w)))[:, 0].to(features.dtype)
