"""Differences between trained networks, with intervals over seeds and images."""

from __future__ import annotations

from collections.abc import Sequence
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
    seed: int = 0,
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
    of_image = np.unique(images, return_inverse=True)[1]
    questions = np.bincount(of_image, counts).astype(np.float64)  # (I,)
    better = first.astype(np.float64) - second  # (S, N)
    gains = np.stack([np.bincount(of_image, row) for row in better])  # (S, I) right answers more
    mean = gains.sum() / (seeds * questions.sum())
    generator = np.random.default_rng(seed)
    chosen = generator.multinomial(
        len(questions), np.full(len(questions), 1 / len(questions)), resamples
    ).astype(np.float64)  # (R, I) how often an image is drawn
    by_seed = chosen @ gains.T / (chosen @ questions)[:, None]  # (R, S)
    drawn = max(1, seeds - 1)
    weights = generator.multinomial(drawn, np.full(seeds, 1 / seeds), resamples)
    if seeds == 1:
        weights = np.ones((resamples, 1), np.int64)
    differences = (by_seed * weights).sum(1) / drawn
    of_seeds = by_seed.mean(0).var(ddof=1) / seeds if seeds > 1 else 0.0
    factor = _factor([of_seeds, by_seed.mean(1).var()], [seeds - 1, len(questions) - 1])
    half = factor * differences.std()
    return Difference(float(mean), float(mean - half), float(mean + half))


def _factor(variances: Sequence[float], freedoms: Sequence[int]) -> float:
    """Half of a 95% interval in standard deviations, by Student's t, for a sum of estimates with
    these variances, each with its degrees of freedom (Satterthwaite 1946)."""
    spread = sum(v * v / f for v, f in zip(variances, freedoms, strict=True) if v and f)
    return float(t.ppf(0.975, sum(variances) ** 2 / spread)) if spread else 0.0
