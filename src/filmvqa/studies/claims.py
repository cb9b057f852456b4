"""Claims about networks, the sweeps that try them, and what is read of their runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import mean
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import yaml
from msgspec import Meta
from numpy.typing import NDArray

from filmvqa.settings.nested import changed_keys, flatten
from filmvqa.settings.typed import AboveZero, Name, Positive, Settings, settings_from
from filmvqa.studies.bootstrap import Difference, paired_difference
from filmvqa.studies.sweeps import (
    IGNORED_KEYS,
    SweepRun,
    grouped_value,
    is_number,
    runs_below,
    shown,
)
from filmvqa.system.errors import UserError, one_line
from filmvqa.system.files import read_bytes
from filmvqa.system.layout import EvaluationLayout, RunLayout
from filmvqa.tasks.records import Prediction, read_predictions

Verdict = Literal[
    "shows", "shows, but less", "shows, and more", "does not show", "the opposite",
    "cannot be told", "still on its plateau", "too few seeds",
]  # fmt: skip
#: A value that a sweep varies.
Value = int | float | str | bool | list[Any] | None


@dataclass(frozen=True, kw_only=True)
class Key(Settings):
    """A config key that a claim's settings differ in, the name of its column, and the values that
    belong to the claim, in order (None: all that the runs have); ``labels`` has what stands for a
    value in tables and figures instead of itself."""

    node: ClassVar[str] = "keys"

    key: Name
    name: Name
    values: Annotated[list[Any], Meta(min_length=1)] | None = None
    labels: dict[str, Name] = field(default_factory=dict)

    def shown(self, value: Any) -> str:
        """A value as tables have it."""
        return self.labels.get(shown(value), shown(value))


@dataclass(frozen=True, kw_only=True)
class Contrast(Settings):
    """Two settings that a claim says something about.

    Attributes
    ----------
    text
        What is compared, in words.
    first, second
        Values by key, which each one setting alone has; the difference is that of their accuracies.
    expected
        Whether the claim has it that the ``first`` is ``more`` accurate, that it is ``no more``
        so, or that they are the ``same``.
    claimed
        The difference in points that the source gives; None if it gives none.
    decides
        The part of the claim that it decides; a claim without any such is decided by the first.
    """

    node: ClassVar[str] = "contrasts"

    text: Name
    first: dict[str, Any]
    second: dict[str, Any]
    expected: Literal["more", "no more", "same"] = "more"
    claimed: float | None = None
    decides: Name | None = None


@dataclass(frozen=True, kw_only=True)
class Claim(Settings):
    """A claim, and the runs that try it.

    Attributes
    ----------
    called
        What ``laboratory.py`` calls it.
    claim, source
        What is claimed, and where.
    note
        What its figures do not say, such as what was settled when runs had been seen.
    sweeps
        Overrides of ``train.py -m`` by the folder of the sweep; several claims may share one.
    runs, minutes
        How many runs the sweeps have, and how long one takes with a thread of its own.
    keys
        What the settings differ in.
    where
        Values by key that all runs of the claim have; others in the same folders are left out.
    axis
        The key, with numbers for values, along which figures draw curves; None: a row a setting.
    panels
        The key of which each value has a panel of its own where figures draw accuracy while
        training; None: a few settings a panel, in order.
    contrasts
        What is compared.
    plateau
        Training accuracy in percent that networks have on their plateau. One that has not left it
        by its end is not judged: when it would have is another question. None: there is none.
    by_type
        Whether the table has the question types.
    paper
        Which published results stand beside: those of Table 1 of the paper for ``models``, by the
        key ``model``; of its Tables 2 and 3 for ``ablations``, by the key ``ablation``; MAC's for
        ``data_efficiency``, by the keys ``model`` and ``data.fraction``.
    """

    node: ClassVar[str] = ""

    name: Name
    called: Name
    title: Name
    claim: Name
    source: Name
    note: Name | None = None
    sweeps: Annotated[dict[str, list[Name]], Meta(min_length=1)]
    runs: Positive
    minutes: AboveZero
    keys: Annotated[list[Key], Meta(min_length=1)]
    where: dict[str, Any] = field(default_factory=dict)
    axis: Name | None = None
    panels: Name | None = None
    contrasts: list[Contrast] = field(default_factory=list)
    plateau: AboveZero | None = None
    by_type: bool = False
    paper: Literal["models", "ablations", "data_efficiency"] | None = None

    @property
    def deciding(self) -> dict[str, Contrast]:
        """The contrast that decides each part of the claim."""
        parts = {contrast.decides: contrast for contrast in self.contrasts if contrast.decides}
        if not parts and self.contrasts:
            parts = {self.claim: self.contrasts[0]}
        return parts


def read_claim(path: Path, called: str | None = None) -> Claim:
    """A claim from a YAML file, whose name is the claim's.

    Parameters
    ----------
    called
        What ``laboratory.py`` calls it; None: the path.

    Raises
    ------
    UserError
        If the file is missing or is no claim.
    """
    try:
        content = yaml.safe_load(read_bytes(path, "write a claim's settings to it"))
        if not isinstance(content, dict):
            raise UserError("is no claim's settings")
        for name, entry in (("keys", Key), ("contrasts", Contrast)):
            content[name] = [settings_from(e, entry) for e in content.get(name) or []]
        claim = settings_from(content | {"name": path.stem, "called": called or str(path)}, Claim)
        keys = [key.key for key in claim.keys]
        named = [("axis", claim.axis), ("panels", claim.panels)]
        named += [("contrasts", key) for c in claim.contrasts for key in (*c.first, *c.second)]
        for name, key in named:
            if key is not None and key not in keys:
                raise UserError(f"{name}: {key} is none of its keys, {', '.join(keys)}")
        return claim
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, UserError) as error:
        raise UserError(f"{path}: {one_line(error)}") from None


@dataclass(frozen=True)
class ScoredRun:
    """A run, and how well it answers each of the test questions: 1 for a right and 0 for a wrong
    answer; of a mask its intersection over union with the true one.

    ``questions``, ``images`` and ``scores`` are (N,).
    """

    run: SweepRun
    questions: NDArray[np.int64]
    images: NDArray[np.int64]
    scores: NDArray[np.float64]

    @property
    def seed(self) -> int:
        return int(self.run.config.get("seed", 0))

    @property
    def test(self) -> float:
        return float(self.scores.mean())


@dataclass(frozen=True)
class Setting:
    """The runs of a claim that differ only in their seed, in the order of their seeds."""

    values: dict[str, Any]
    runs: list[ScoredRun]

    @property
    def tests(self) -> list[float]:
        """Test score of each run."""
        return [run.test for run in self.runs]

    @property
    def score(self) -> str:
        """The name of the score."""
        return self.runs[0].run.score

    @property
    def at_the_end(self) -> float:
        """Mean training score after the last step."""
        return mean(run.run.course[-1].train for run in self.runs)


@dataclass(frozen=True)
class Outcome:
    """What the runs say about a contrast."""

    contrast: Contrast
    difference: Difference
    seeds: list[int]
    verdict: Verdict


def score_run(run: SweepRun, split: str) -> ScoredRun:
    """What an evaluation of a run on a split has written."""
    path = EvaluationLayout(RunLayout(run.folder).evaluation, split).predictions
    records = read_predictions(path)
    return ScoredRun(
        run,
        np.array([record.question_index for record in records]),
        np.array([record.image_index for record in records]),
        np.array([_score(record, path) for record in records]),
    )


def _score(record: Prediction, path: Path) -> float:
    if record.iou is None and record.truth is None:
        raise UserError(
            f"{path}: question {record.question_index} has no true answer; report on a split that "
            "has them"
        )
    return float(record.answer == record.truth) if record.iou is None else record.iou


def runs_of(claim: Claim, folder: Path) -> list[SweepRun]:
    """The runs of a claim's sweeps below a folder that belong to it; none if nothing was trained
    yet."""
    runs = []
    for sweep in claim.sweeps:
        if (folder / sweep).is_dir():
            runs += [run for run in runs_below(folder / sweep) if belongs(run, claim)]
    return runs


def belongs(run: SweepRun, claim: Claim) -> bool:
    """Whether a run has the values that a claim is about."""
    return all(
        grouped_value(run.config.get(k)) == grouped_value(v) for k, v in claim.where.items()
    ) and all(
        key.values is None
        or grouped_value(run.config.get(key.key)) in map(grouped_value, key.values)
        for key in claim.keys
    )


def settings_of(claim: Claim, runs: Sequence[ScoredRun]) -> list[Setting]:
    """The claim's settings in order.

    Raises
    ------
    UserError
        If two runs of a setting differ in something besides their seeds, so that they are not what
        the claim is about.
    """
    groups: dict[tuple[Any, ...], dict[int, ScoredRun]] = {}
    for run in runs:
        values = tuple(grouped_value(run.run.config.get(key.key)) for key in claim.keys)
        group = groups.setdefault(values, {})
        for other in group.values():
            differing = changed_keys(run.run.config, other.run.config)
            if differing := [key for key in differing if key not in IGNORED_KEYS]:
                raise UserError(
                    f"{run.run.folder}: differs from {other.run.folder} in {differing[0]}, which "
                    f"the claim {claim.name} does not vary; move one of them away"
                )
        group.setdefault(run.seed, run)
    order = sorted(groups, key=lambda values: _rank(claim, values, groups))
    return [
        Setting(
            dict(zip((key.key for key in claim.keys), values, strict=True)),
            [groups[values][seed] for seed in sorted(groups[values])],
        )
        for values in order
    ]


def _rank(claim: Claim, values: tuple[Any, ...], groups: Any) -> tuple[Any, ...]:
    """Where a setting stands: in the order of the claim's values, else as numbers or words are
    sorted."""
    ranks: list[Any] = []
    for i, (key, value) in enumerate(zip(claim.keys, values, strict=True)):
        if key.values is not None:
            ranks.append([grouped_value(v) for v in key.values].index(value))
        else:
            are_numbers = all(is_number(group[i]) for group in groups)
            ranks.append(value if are_numbers else str(value))
    return tuple(ranks)


def judge(claim: Claim, settings: Sequence[Setting], margin: float) -> list[Outcome]:
    """What the runs say about each contrast of a claim whose settings they have.

    Parameters
    ----------
    margin
        The largest difference of accuracy that counts as none, a fraction.
    """
    outcomes = []
    for contrast in claim.contrasts:
        first, second = (
            find_setting(settings, values) for values in (contrast.first, contrast.second)
        )
        if first is None or second is None:
            continue
        seeds = sorted({r.seed for r in first.runs} & {r.seed for r in second.runs})
        if not seeds:
            continue
        pair = [[r for r in s.runs if r.seed in seeds] for s in (first, second)]
        one = pair[0][0]
        for run in (*pair[0], *pair[1]):
            if not np.array_equal(run.questions, one.questions):
                raise UserError(
                    f"{run.run.folder}: its test questions are not those of {one.run.folder}; "
                    "evaluate both on the same set"
                )
        difference = paired_difference(
            np.stack([r.scores for r in pair[0]]), np.stack([r.scores for r in pair[1]]),
            one.images,
        )  # fmt: skip
        verdict = verdict_of(difference, contrast.expected, margin, contrast.claimed)
        if claim.plateau and min(first.at_the_end, second.at_the_end) < claim.plateau / 100:
            verdict = "still on its plateau"
        if len(seeds) < 2:  # the interval then leaves out how much seeds differ
            verdict = "too few seeds"
        outcomes.append(Outcome(contrast, difference, seeds, verdict))
    return outcomes


def find_setting(settings: Sequence[Setting], values: dict[str, Any]) -> Setting | None:
    """The one setting that has the values; None without any."""
    found = [
        s
        for s in settings
        if all(s.values.get(key) == grouped_value(value) for key, value in values.items())
    ]
    if len(found) > 1:
        raise UserError(f"contrasts: {flatten(values)} are the values of {len(found)} settings")
    return found[0] if found else None


def verdict_of(
    difference: Difference, expected: str, margin: float, claimed: float | None = None
) -> Verdict:
    """What a difference with its interval says.

    - That the first is more accurate ``shows`` if the whole interval is above 0, and does so ``but
      less`` or ``and more`` if what is claimed, in points, is above or below all of it. It is
      ``the opposite`` if all is below 0, and ``does not show`` if all is below the margin.
    - That it is no more accurate, or the same, ``shows`` if the whole interval is, where a
      difference within the margin counts as none, and ``does not show`` if none of it is.
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


def label_of(claim: Claim, setting: Setting, keys: Sequence[str]) -> str:
    """A setting by its values of some keys: numbers with their names, words alone; what it has
    nothing of is left out."""
    parts = []
    for key in claim.keys:
        if key.key not in keys or (text := key.shown(setting.values[key.key])) == "–":
            continue
        parts.append(f"{key.name} {text}" if is_number(setting.values[key.key]) else text)
    return ", ".join(parts)
