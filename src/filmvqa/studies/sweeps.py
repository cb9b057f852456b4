"""The runs of a sweep, grouped into points: runs that differ only in their seed."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any, NamedTuple

import yaml

from filmvqa.checkpoints.checkpoint import load_checkpoint
from filmvqa.settings.effects import Effect
from filmvqa.settings.nested import flatten
from filmvqa.studies.paper_results import ABLATIONS, TEST_ACCURACY
from filmvqa.system.errors import UserError, one_line
from filmvqa.system.files import files_below, read_bytes
from filmvqa.system.layout import RunLayout
from filmvqa.system.tables import format_number
from filmvqa.tasks.protocol import score_title
from filmvqa.training.config_changes import effect_of
from filmvqa.training.curves import read_evaluations

#: Keys that may differ between the runs of a sweep but are never the varied key.
IGNORED_KEYS = ("run", "seed", "name")
#: Pairs of a key and a series key that take precedence, because other keys change with them.
_PREFERRED_KEYS = (("ablation", None), ("data.fraction", "model"), ("model", None))


class Evaluated(NamedTuple):
    """An evaluation during training: its step, the seconds until then, and the scores."""

    step: int
    seconds: float
    train: float
    val: float


@dataclass(frozen=True)
class SweepRun:
    """A run: its flat config, its best evaluation on validation, and the course of all evaluations.

    Scores are fractions. ``score`` is their name.
    """

    folder: Path
    config: dict[str, Any]
    step: int
    train: float
    val: float
    by_type: dict[str, float]
    course: list[Evaluated]
    score: str = "accuracy"

    def find_first_reaching(self, accuracy: float) -> tuple[float, float] | None:
        """Questions and seconds until the first evaluation with this validation accuracy."""
        for evaluation in self.course:
            if evaluation.val >= accuracy:
                return self.count_questions(evaluation.step), evaluation.seconds
        return None

    def count_questions(self, step: int) -> float:
        """The number of questions in ``step`` training steps."""
        return step * float(self.config.get("trainer.batch_size", 1))


@dataclass(frozen=True)
class SweepPoint:
    """Runs that differ only in their seed; scores are means over them."""

    value: Any
    runs: list[SweepRun]
    series: str | None = None

    @property
    def train(self) -> float:
        return mean(run.train for run in self.runs)

    @property
    def val(self) -> float:
        return mean(run.val for run in self.runs)

    @property
    def val_spread(self) -> float | None:
        """The standard deviation over seeds; None for a single run."""
        return stdev(run.val for run in self.runs) if len(self.runs) > 1 else None

    @property
    def by_type(self) -> dict[str, float]:
        """Validation score by question type, for the types that all runs have."""
        names = [t for t in self.runs[0].by_type if all(t in run.by_type for run in self.runs)]
        return {name: mean(run.by_type[name] for run in self.runs) for name in names}

    @property
    def gap(self) -> float:
        return self.train - self.val

    @property
    def label(self) -> str:
        return format_value(self.value)


@dataclass(frozen=True)
class Sweep:
    """The points of a sweep in order, and the name of their score.

    ``key`` is the config key that varies. Each value of ``series_key`` has its own curve; without
    one there is a single curve.
    """

    key: str
    series_key: str | None
    points: list[SweepPoint]
    score: str = "accuracy"

    @property
    def numeric(self) -> bool:
        return all(is_number(p.value) for p in self.points)

    @property
    def keys(self) -> list[str]:
        """The series key, if there is one, and the key."""
        return [key for key in (self.series_key, self.key) if key is not None]


def read_runs(folder: str | Path) -> list[SweepRun]:
    """Read the runs below a folder that have at least one evaluation.

    Raises
    ------
    UserError
        If there are none, or a file of a run is broken.
    """
    runs = find_runs_below(Path(folder))
    if not runs:
        raise UserError(
            f"{folder}: no runs in it; make some with scripts/train.py -m sweep=weight_decay"
        )
    return runs


def find_runs_below(folder: Path) -> list[SweepRun]:
    """As ``read_runs``; an empty list if no run has an evaluation yet."""
    runs = []
    for metrics in files_below(folder, RunLayout(folder).metrics.name):
        layout = RunLayout(metrics.parent)
        evaluations = read_evaluations(metrics)
        if not evaluations or not layout.config.exists():
            continue
        best = max(evaluations, key=lambda record: record["val"])
        config = flatten(_read_config(layout.config))
        course = [
            Evaluated(e["step"], e.get("seconds", 0.0), e["train"], e["val"]) for e in evaluations
        ]
        runs.append(
            SweepRun(
                layout.folder, config | {"model": name_model(config)}, best["step"], best["train"],
                best["val"], best.get("val_by_type", {}), course, score_title(best["metric"]),
            )
        )  # fmt: skip
    return runs


def is_finished(run: SweepRun) -> bool:
    """Whether a run has ended; a run without its last checkpoint counts as finished."""
    last = RunLayout(run.folder).last_checkpoint
    return not last.exists() or bool(load_checkpoint(last)["progress"]["finished"])


def report_unfinished(runs: Sequence[SweepRun]) -> list[SweepRun]:
    """Find the runs that were interrupted or still train, and print a line for each."""
    unfinished = [run for run in runs if not is_finished(run)]
    for run in unfinished:
        step = run.course[-1].step
        print(f"{run.folder}: is not at its end (last evaluated at step {step}); the command that "
              "started it resumes it", flush=True)  # fmt: skip
    return unfinished


def _read_config(path: Path) -> dict[str, Any]:
    remedy = "the run itself is in its checkpoints; move its folder away to report the others"
    try:
        config = yaml.safe_load(read_bytes(path, remedy))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path}: {one_line(error)}; {remedy}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: is no run's config; {remedy}")
    return config


def name_model(config: dict[str, Any]) -> str:
    """The model name as in ``TEST_ACCURACY``, where FiLM on pixels is a separate model."""
    name = str(config.get("model.name"))
    return f"{name}_pixels" if config.get("data.backbone.name") == "pixels" else name


def summarize(runs: list[SweepRun], key: str | None = None, series_key: str | None = None) -> Sweep:
    """Group runs by the value of the key that varies.

    Parameters
    ----------
    key
        The flat config key that varies; None: find the key that differs between the runs.
    series_key
        A second key, with one curve for each value; ignored if ``key`` is None.

    Raises
    ------
    UserError
        If no run has one of the keys, or if ``key`` is None and not exactly one key differs.
    """
    if key is None:
        key, series_key = _find_varied_keys(runs)
    keys = sorted({name for run in runs for name in run.config})
    for name, chosen in {"key": key, "series": series_key}.items():
        if chosen is not None and chosen not in keys:
            near = difflib.get_close_matches(chosen, keys, n=1) or keys
            raise UserError(f"{name}={chosen}: no run has such a key; choose for example {near[0]}")
    groups: dict[Any, dict[str, list[SweepRun]]] = {}
    for run in runs:
        series = "" if series_key is None else str(run.config.get(series_key))
        by_series = groups.setdefault(make_hashable(run.config.get(key)), {})
        by_series.setdefault(series, []).append(run)
    points = [
        SweepPoint(value, members, series or None)
        for value in _sort_values(key, set(groups))
        for series, members in groups[value].items()
    ]
    points.sort(key=lambda point: point.series or "")
    return Sweep(key, series_key, points, runs[0].score)


def _sort_values(key: str, values: set[Any]) -> list[Any]:
    """Sort numbers by size, and other values by the order of the paper's tables, then by name."""
    if all(map(is_number, values)):
        return sorted(values)
    published = list(TEST_ACCURACY) if key == "model" else list(ABLATIONS)
    rank = {name: i for i, name in enumerate(published)}
    return sorted(values, key=lambda value: (rank.get(str(value), len(rank)), str(value)))


def _find_varied_keys(runs: list[SweepRun]) -> tuple[str, str | None]:
    """Find the key that differs between the runs, and the series key."""
    keys = {k for run in runs for k in run.config} - set(IGNORED_KEYS)
    varied = sorted(k for k in keys if len({str(run.config.get(k)) for run in runs}) > 1)
    for key, series_key in _PREFERRED_KEYS:
        if key in varied and (series_key is None or series_key in varied):
            return key, series_key
    # Runs of a sweep may differ in their device, or in where their data lay.
    varied = [k for k in varied if effect_of(k) in (Effect.RESULT, Effect.LENGTH)] or varied
    if len(varied) != 1:
        names = ", ".join(varied) or "nothing"
        raise UserError(f"{names} differs between the runs; choose a key with key=<key>")
    return varied[0], None


def is_number(value: Any) -> bool:
    """Whether a config value is a number; true and false are not."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def make_hashable(value: Any) -> Any:
    """A config value as a dictionary key: a list becomes text."""
    return str(value) if isinstance(value, list) else value


def format_value(value: Any) -> str:
    """A config value as tables and figures show it; a dash for None and an empty list."""
    if value in (None, [], "[]"):
        return "–"
    if not isinstance(value, float):
        return str(value)
    return format_number(value)
