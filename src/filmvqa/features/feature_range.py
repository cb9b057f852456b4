"""Where a training set's features lie, to tell pictures that look like none of its own."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from filmvqa.features.store import FeatureStore

#: More images would not change what is measured.
_IMAGES = 1000
_BATCH = 100


@dataclass(frozen=True)
class FeatureRange:
    """Mean and standard deviation (C,) of the training images' features, averaged over the map,
    and the largest distance (``distance``, in standard deviations) that one of the images has."""

    mean: list[float]
    std: list[float]
    farthest: float

    def distance(self, features: Tensor) -> float:
        """How far features (C, H, W) of a picture are from the training set's: 1 is as far as the
        farthest of its images. The distance is the root mean square over channels, each in standard
        deviations."""
        pooled = features.float().mean((1, 2)).cpu()
        return float(_deviation(pooled, self.mean, self.std)) / self.farthest


def feature_range(store: FeatureStore, images: Tensor) -> FeatureRange:
    """The range of the features of the images (M,), which are sorted; of more than 1,000 as many
    are read, at equal distances."""
    chosen = images[torch.linspace(0, len(images) - 1, min(_IMAGES, len(images))).long()]
    batches = (chosen[i : i + _BATCH] for i in range(0, len(chosen), _BATCH))
    pooled = torch.cat([store.read(batch).float().mean((2, 3)).cpu() for batch in batches])
    mean, std = pooled.mean(0), pooled.std(0, correction=0)
    # A channel that is the same in all images would make every other picture infinitely far.
    std = std.clamp(min=max(1e-3 * float(std.mean()), 1e-6))
    farthest = _deviation(pooled, mean.tolist(), std.tolist()).max()
    return FeatureRange(mean.tolist(), std.tolist(), max(1.0, float(farthest)))


def _deviation(pooled: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """Root mean square over channels of pooled features (..., C), in standard deviations."""
    z = (pooled - torch.tensor(mean)) / torch.tensor(std)
    return z.square().mean(-1).sqrt()
