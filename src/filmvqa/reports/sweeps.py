"""The runs of a sweep, and its points: mean accuracies of runs that differ in their seed alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from filmvqa.errors import UserError, one_line
from filmvqa.files import read_bytes
from filmvqa.layout import RunLayout
from filmvqa.nested import flatten
from filmvqa.reports.curves import read_evaluations
from filmvqa.reports.paper_results import ABLATIONS, TEST_ACCURACY

#: Keys that differ between the runs of a sweep without being what it varies.
_NOT_VARIED = ("run", "seed", "name")
#: Keys that are what a sweep varies whatever else follows from them, with what tells series apart.
_LEADING = (("ablation", None), ("data.fraction", "model"), ("model", None))


@dataclass(frozen=True)
class SweepRun:
    """One run: its flat config and its evaluation with the best validation accuracy."""

    folder: Path
    config: dict[str, Any]
    step: int
    train: float
    val: float
    by_type: dict[str, float]


@dataclass(frozen=True)
class SweepPoint:
    """Runs that differ in nothing but their seed: mean accuracies, spread over seeds."""

    value: Any
    train: float
    val: float
    val_spread: float | None
    runs: int
    by_type: dict[str, float]
    series: str | None = None

    @property
    def gap(self) -> float:
        return self.train - self.val

    @property
    def label(self) -> str:
        return f"{self.value:g}" if _is_number(self.value) else str(self.value)


@dataclass(frozen=True)
class Sweep:
    """A sweep's points in order: ``key`` is what was varied, ``series_key`` what tells curves
    apart, None where there is one."""

    key: str
    series_key: str | None
    points: list[SweepPoint]

    @property
    def numeric(self) -> bool:
        return all(_is_number(p.value) for p in self.points)


def read_runs(folder: str | Path) -> list[SweepRun]:
    """Runs below a folder that evaluated at least once.

    Raises
    ------
    UserError
        If there are none.
    """
    folder = Path(folder)
    runs = []
    for metrics in sorted(folder.rglob(RunLayout(folder).metrics.name)):
        layout = RunLayout(metrics.parent)
        evaluations = read_evaluations(metrics)
        if not evaluations or not layout.config.exists():
            continue
        best = max(evaluations, key=lambda r: r["val_accuracy"])
        config = flatten(_read_config(layout.config))
        runs.append(
            SweepRun(
                layout.folder,
                config | {"model": _model_name(config)},
                best["step"],
                best["train_accuracy"],
                best["val_accuracy"],
                best.get("val_by_type", {}),
            )
        )
    if not runs:
        raise UserError(
            f"{folder}: no runs in it; make some with scripts/train.py -m sweep=weight_decay"
        )
    return runs


def _read_config(path: Path) -> dict[str, Any]:
    remedy = "delete the run's folder and train it again"
    try:
        config = yaml.safe_load(read_bytes(path, remedy))
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        raise UserError(f"{path}: {one_line(error)}; {remedy}") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: is no run's config; {remedy}")
    return config


def _model_name(config: dict[str, Any]) -> str:
    """The model's name in ``TEST_ACCURACY``, where FiLM from pixels is one of its own."""
    name = str(config.get("model.name"))
    return f"{name}_pixels" if config.get("data.backbone.name") == "pixels" else name


def summarize(runs: list[SweepRun], key: str | None = None, series_key: str | None = None) -> Sweep:
    """The varied key and one point for each of its values, in order.

    Parameters
    ----------
    key
        The flat key that the sweep varied; None finds it.
    series_key
        A second one, with a curve for each of its values.

    Raises
    ------
    UserError
        If no key, or more than one, differs between the runs.
    """
    if key is None:
        key, series_key = _varied(runs)
    groups: dict[tuple[str, Any], list[SweepRun]] = {}
    for run in runs:
        series = "" if series_key is None else str(run.config.get(series_key))
        groups.setdefault((series, run.config.get(key)), []).append(run)
    values = {value for _, value in groups}
    ours = list(TEST_ACCURACY) if key == "model" else list(ABLATIONS)
    if all(map(_is_number, values)):
        place = {v: i for i, v in enumerate(sorted(values))}
    else:  # as in the paper's tables, then by name
        known = {name: i for i, name in enumerate(ours)}
        place = {v: i for i, v in enumerate(sorted(values, key=lambda v: (
            known.get(str(v), len(known)), str(v))))}  # fmt: skip
    order = sorted(groups, key=lambda group: (group[0], place[group[1]]))
    points = [_point(value, series or None, groups[series, value]) for series, value in order]
    return Sweep(key, series_key, points)


def _varied(runs: list[SweepRun]) -> tuple[str, str | None]:
    keys = {k for run in runs for k in run.config} - set(_NOT_VARIED)
    varied = sorted(k for k in keys if len({str(run.config.get(k)) for run in runs}) > 1)
    for leading, series in _LEADING:
        if leading in varied and (series is None or series in varied):
            return leading, series
    if len(varied) != 1:
        found = ", ".join(varied) or "nothing"
        raise UserError(f"{found} differs between the runs; name one with key=<key>")
    return varied[0], None


def _point(value: Any, series: str | None, runs: list[SweepRun]) -> SweepPoint:
    vals = [r.val for r in runs]
    kinds = [k for k in runs[0].by_type if all(k in r.by_type for r in runs)]
    return SweepPoint(
        value=value,
        train=mean(r.train for r in runs),
        val=mean(vals),
        val_spread=stdev(vals) if len(vals) > 1 else None,
        runs=len(runs),
        by_type={k: mean(r.by_type[k] for r in runs) for k in kinds},
        series=series,
    )


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
