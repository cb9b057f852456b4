"""The range of a training set's features, to recognise pictures unlike all of its images."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from filmvqa.features.store import FeatureStore

#: More images would not change the measurement.
_IMAGES = 1000
_BATCH = 100


@dataclass(frozen=True)
class FeatureRange:
    """Range of the training images' features, averaged over the map.

    Attributes
    ----------
    mean, std
        (C,) mean and standard deviation over images.
    farthest
        The largest distance of one of the images from the mean, in standard deviations.
    """

    mean: list[float]
    std: list[float]
    farthest: float

    def distance(self, features: Tensor) -> float:
        """The distance of a picture's features (C, H, W) from the training set's mean.

        It is the root mean square over channels, in standard deviations, relative to ``farthest``:
        1 is the distance of the farthest training image.
        """
        pooled = features.float().mean((1, 2)).cpu()
        return float(_deviation(pooled, self.mean, self.std)) / self.farthest


def feature_range(store: FeatureStore, images: Tensor) -> FeatureRange:
    """Measure the range of features of sorted images (M,), of at most 1,000 at equal distances."""
    chosen = images[torch.linspace(0, len(images) - 1, min(_IMAGES, len(images))).long()]
    batches = (chosen[i : i + _BATCH] for i in range(0, len(chosen), _BATCH))
    pooled = torch.cat([store.read(batch).float().mean((2, 3)).cpu() for batch in batches])
    mean, std = pooled.mean(0), pooled.std(0, correction=0)
    # A channel that is constant over the images would make any other picture infinitely distant.
    std = std.clamp(min=max(1e-3 * float(std.mean()), 1e-6))
    farthest = _deviation(pooled, mean.tolist(), std.tolist()).max()
    return FeatureRange(mean.tolist(), std.tolist(), max(1.0, float(farthest)))


def _deviation(pooled: Tensor, mean: list[float], std: list[float]) -> Tensor:
    """Root mean square over channels of pooled features (..., C), in standard deviations."""
    z = (pooled - torch.tensor(mean)) / torch.tensor(std)
    return z.square().mean(-1).sqrt()
