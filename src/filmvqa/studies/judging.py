"""The verdicts of a claim's runs: test scores, their differences, and what these show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any, Literal

import numpy as np

from filmvqa.settings.effects import Effect
from filmvqa.studies.bootstrap import Difference, estimate_difference
from filmvqa.studies.claims import Claim, Contrast, Key
from filmvqa.studies.raw_results import ScoredRun
from filmvqa.studies.sweeps import IGNORED_KEYS, is_number, make_hashable
from filmvqa.system.errors import UserError
from filmvqa.training.config_changes import config_changes

Verdict = Literal[
    "shows", "shows, but less", "shows, and more", "does not show", "the opposite",
    "cannot be told", "still on its plateau", "too few seeds",
]  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """The runs of a claim that differ only in their seed, ordered by seed."""

    values: dict[str, Any]
    runs: list[ScoredRun]

    @property
    def tests(self) -> list[float]:
        """The test score of each run."""
        return [run.test for run in self.runs]

    @property
    def score(self) -> str:
        """The name of the score."""
        return self.runs[0].run.score

    @property
    def train(self) -> float:
        """The mean training score of the best checkpoints."""
        return mean(run.run.train for run in self.runs)

    @property
    def at_the_end(self) -> float:
        """The mean training score after the last step."""
        return mean(run.run.course[-1].train for run in self.runs)


@dataclass(frozen=True)
class Outcome:
    """The verdict on a contrast."""

    contrast: Contrast
    difference: Difference
    seeds: list[int]
    verdict: Verdict


def group_settings(claim: Claim, runs: Sequence[ScoredRun]) -> list[Setting]:
    """Group runs into the claim's settings, in order.

    Raises
    ------
    UserError
        If two runs of a setting differ in more than their seed: the claim is not about them.
    """
    groups: dict[tuple[Any, ...], dict[int, ScoredRun]] = {}
    for run in runs:
        values = tuple(make_hashable(run.run.config.get(key.key)) for key in claim.keys)
        group = groups.setdefault(values, {})
        for earlier in group.values():
            changes = config_changes(earlier.run.config, run.run.config)
            lines = changes.of(Effect.RESULT, Effect.LENGTH)
            if earlier.world != run.world:  # the location of files does not matter
                lines.append("data.name")
            differing = [key for line in lines if (key := line.split()[0]) not in IGNORED_KEYS]
            if differing:
                raise UserError(
                    f"{run.place}: differs from {earlier.place} in {differing[0]}, which the claim "
                    f"{claim.name} does not vary; give the claim a value of it, or move one of "
                    "them away"
                )
        group.setdefault(run.seed, run)
    ranks = [_rank(key, {values[i] for values in groups}) for i, key in enumerate(claim.keys)]
    names = [key.key for key in claim.keys]
    return [
        Setting(dict(zip(names, values, strict=True)), [run for _, run in sorted(group.items())])
        for values, group in sorted(
            groups.items(), key=lambda item: list(map(list.index, ranks, item[0]))
        )
    ]


def _rank(key: Key, values: set[Any]) -> list[Any]:
    """The values of a key in the claim's order; without one, sorted as numbers or as text."""
    if key.values is not None:
        return list(map(make_hashable, key.values))
    return sorted(values) if all(map(is_number, values)) else sorted(values, key=str)


def judge(claim: Claim, settings: Sequence[Setting], margin: float) -> list[Outcome]:
    """Judge each contrast of a claim whose settings have runs with common seeds.

    Parameters
    ----------
    margin
        The largest difference of accuracy, a fraction, that counts as none.
    """
    outcomes = []
    for contrast in claim.contrasts:
        pair = [find_setting(settings, values) for values in (contrast.first, contrast.second)]
        runs = [{run.seed: run for run in setting.runs} if setting else {} for setting in pair]
        seeds = sorted(runs[0].keys() & runs[1].keys())
        if not seeds:
            continue
        reference = runs[0][seeds[0]]
        for run in (by_seed[seed] for by_seed in runs for seed in seeds):
            if run.test_set != reference.test_set:
                raise UserError(
                    f"{run.place}: its test questions are not those of {reference.place}; "
                    "evaluate both on the same set"
                )
        first, second = (
            np.stack([by_seed[seed].scores for seed in seeds]) for by_seed in runs
        )  # (S, I)
        difference = estimate_difference(
            first, second, np.arange(len(reference.questions)), counts=reference.questions
        )
        verdict = judge_difference(difference, contrast.expected, margin, contrast.claimed)
        ends = [setting.at_the_end for setting in pair if setting]
        if claim.plateau and min(ends) < claim.plateau / 100:
            verdict = "still on its plateau"
        if len(seeds) < 2:  # the interval then does not include how much seeds differ
            verdict = "too few seeds"
        outcomes.append(Outcome(contrast, difference, seeds, verdict))
    return outcomes


def find_setting(settings: Sequence[Setting], values: dict[str, Any]) -> Setting | None:
    """Find the setting that has the values; None if there is none."""
    wanted = {key: make_hashable(value) for key, value in values.items()}
    matches = [setting for setting in settings if wanted.items() <= setting.values.items()]
    if len(matches) > 1:
        raise UserError(f"contrasts: {values} are the values of {len(matches)} settings")
    return matches[0] if matches else None


def judge_difference(
    difference: Difference, expected: str, margin: float, claimed: float | None = None
) -> Verdict:
    """The verdict on a difference with its interval.

    - ``more`` is expected: ``shows`` if the whole interval is above 0. It is ``shows, but less``
      if the claimed difference (in points) is above the interval, and ``shows, and more`` if it is
      below. ``the opposite`` if the interval is below 0; ``does not show`` if it is below the
      margin.
    - ``no more`` or ``same`` is expected: ``shows`` if the whole interval agrees, where a
      difference within the margin counts as none; ``does not show`` if none of it agrees.
    - Otherwise ``cannot be told``.
    """
    if expected != "more":
        is_same = expected == "same"
        if difference.high <= margin and (difference.low >= -margin or not is_same):
            return "shows"
        is_clear = difference.low > margin or (is_same and difference.high < -margin)
        return "does not show" if is_clear else "cannot be told"
    if difference.low > 0:
        if claimed is not None and claimed > 100 * difference.high:
            return "shows, but less"
        return "shows" if claimed is None or claimed >= 100 * difference.low else "shows, and more"
    if difference.high < 0:
        return "the opposite"
    return "does not show" if difference.high <= margin else "cannot be told"


def label_setting(claim: Claim, setting: Setting, keys: Sequence[str]) -> str:
    """Label a setting by its values of some keys: numbers with the key's name, other values alone;
    empty values are left out."""
    parts = []
    for key in claim.keys:
        if key.key not in keys or (text := key.format_value(setting.values[key.key])) == "–":
            continue
        parts.append(f"{key.name} {text}" if is_number(setting.values[key.key]) else text)
    return ", ".join(parts)
