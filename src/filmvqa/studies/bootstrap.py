"""Differences between trained networks, with intervals over seeds and images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t


@dataclass(frozen=True)
class Difference:
    """A difference of two mean scores, such as accuracies, and its 95% interval, as fractions."""

    mean: float
    low: float
    high: float

    def format_points(self, note: str = "") -> str:
        """The mean and its interval in points, followed by a note."""
        return f"{100 * self.mean:+.1f} ({100 * self.low:+.1f} to {100 * self.high:+.1f}{note})"


def estimate_difference(
    first: NDArray[np.bool_] | NDArray[np.float64],
    second: NDArray[np.bool_] | NDArray[np.float64],
    images: NDArray[np.int64],
    *,
    counts: NDArray[np.int64] | None = None,
    resamples: int = 4000,
) -> Difference:
    """Estimate the mean score of ``first`` minus that of ``second`` by a bootstrap.

    Seeds and images are resampled independently of each other (Owen 2007, "The pigeonhole
    bootstrap"), and in pairs: a drawn seed or image counts for both networks. Images are resampled
    rather than questions, because the answers about one image are correlated. Of S seeds, S - 1
    are drawn, so that the variance is that of an unbiased estimate (McCarthy and Snowden 1985);
    with S = 3 drawn of 3 it would be a third too small. A single seed is not resampled: the
    interval then does not include how much seeds differ.

    The half width of the interval is the standard deviation of the resampled differences times
    the quantile of Student's t with Satterthwaite's (1946) degrees of freedom, because three seeds
    say little about how much seeds differ. Quantiles of the resampled differences would end at the
    lowest and the highest of three seeds.

    Parameters
    ----------
    first, second
        (S, N) score of each seed's run on each question: whether its answer is correct, or a
        fraction. Row s of both belongs to the same seed.
    images
        (N,) the image of each question.
    counts
        (N,) the number of questions whose scores each entry sums; None: one.
    """
    seeds = len(first)
    image_of_question = np.unique(images, return_inverse=True)[1]
    questions = np.bincount(image_of_question, counts).astype(np.float64)  # (I,)
    num_images = len(questions)
    gains = np.stack(
        [np.bincount(image_of_question, row) for row in first.astype(np.float64) - second]
    )  # (S, I)
    mean = gains.sum() / (seeds * questions.sum())
    generator = np.random.default_rng(0)
    image_counts = generator.multinomial(
        num_images, np.full(num_images, 1 / num_images), resamples
    ).astype(np.float64)  # (R, I) how often each image is drawn
    by_seed = image_counts @ gains.T / (image_counts @ questions)[:, None]  # (R, S)
    drawn = max(1, seeds - 1)
    seed_counts = generator.multinomial(drawn, np.full(seeds, 1 / seeds), resamples)  # (R, S)
    differences = (by_seed * seed_counts).sum(1) / drawn
    seed_variance = by_seed.mean(0).var(ddof=1) / seeds if seeds > 1 else 0.0
    image_variance = by_seed.mean(1).var()
    parts = ((seed_variance, seeds - 1), (image_variance, num_images - 1))
    spread = sum(v * v / freedom for v, freedom in parts if v and freedom)
    half = 0.0
    if spread:
        freedom = (seed_variance + image_variance) ** 2 / spread
        half = t.ppf(0.975, freedom) * differences.std()
    return Difference(float(mean), float(mean - half), float(mean + half))
