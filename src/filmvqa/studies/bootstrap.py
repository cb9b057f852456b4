"""Differences between trained networks, with intervals over seeds and images."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import t


@dataclass(frozen=True)
class Difference:
    """A difference of two mean scores, such as accuracies, and its 95% interval; all are
    fractions."""

    mean: float
    low: float
    high: float

    def format_points(self, note: str = "") -> str:
        """The mean with its interval, and a note behind it, in points."""
        return f"{100 * self.mean:+.1f} ({100 * self.low:+.1f} to {100 * self.high:+.1f}{note})"


def estimate_difference(
    first: NDArray[np.bool_] | NDArray[np.float64],
    second: NDArray[np.bool_] | NDArray[np.float64],
    images: NDArray[np.int64],
    *,
    counts: NDArray[np.int64] | None = None,
    resamples: int = 4000,
) -> Difference:
    """The mean score of ``first`` minus that of ``second``, by a bootstrap over seeds and images.

    Seeds and images are drawn independently of each other (Owen 2007, "The pigeonhole bootstrap"),
    and in pairs: a drawn seed or image counts for both. Images are drawn and not questions, as the
    questions about one image are answered right or wrong together. Of S seeds, S - 1 are drawn,
    which makes the variance that of an unbiased estimate (McCarthy and Snowden 1985); with S drawn
    of 3 it would be a third too small. A single seed is not drawn, so that the interval then leaves
    out how much seeds differ.

    The interval is as many standard deviations of the resampled differences to both sides of the
    mean as Student's t has it, with Satterthwaite's degrees of freedom: three seeds tell little
    about how much seeds differ. Quantiles of the resampled differences would end at the lowest and
    the highest of three seeds.

    Parameters
    ----------
    first, second
        (S, N) whether each network's run of each seed answers each question correctly, or how well.
        The runs of a seed share what the seed decides.
    images
        (N,) which image each question is about.
    counts
        (N,) of how many questions each score is the sum; None: of one.
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
