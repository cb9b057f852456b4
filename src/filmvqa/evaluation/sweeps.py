"""What a sweep found: tables and a figure of training and validation accuracy."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from filmvqa.errors import UserError, one_line
from filmvqa.evaluation.curves import read_evaluations
from filmvqa.evaluation.published import ABLATIONS, COLUMNS, TEST_ACCURACY
from filmvqa.evaluation.sweep_figure import draw_sweep
from filmvqa.files import exclusive, read_bytes, write_file
from filmvqa.training.run import flatten

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
    for metrics in sorted(folder.rglob("metrics.jsonl")):
        evaluations = read_evaluations(metrics)
        if not evaluations or not (metrics.parent / "config.yaml").exists():
            continue
        best = max(evaluations, key=lambda r: r["val_accuracy"])
        config = flatten(_read_config(metrics.parent / "config.yaml"))
        runs.append(
            SweepRun(
                metrics.parent,
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


def markdown_tables(sweep: Sweep) -> str:
    """The sweep as Markdown, accuracies in percent; for ablations and models with the paper's
    figures beside ours."""
    first = [sweep.key] if sweep.series_key is None else [sweep.series_key, sweep.key]
    published = sweep.key == "ablation"
    heads = [*first, "runs", "training", "validation", "gap"]
    heads += ["paper, on CLEVR", "ours - none", "paper's - none"] if published else []
    base = next((p.val for p in sweep.points if p.value == "none"), None)
    rows = []
    for p in sweep.points:
        spread = "" if p.val_spread is None else f" ± {100 * p.val_spread:.2f}"
        row = [p.label] if p.series is None else [p.series, p.label]
        row += [str(p.runs), f"{100 * p.train:.2f}", f"{100 * p.val:.2f}{spread}"]
        row.append(f"{100 * p.gap:+.2f}")
        if published:
            theirs = ABLATIONS.get(str(p.value))
            row.append("" if theirs is None else f"{theirs:.1f}")
            row.append("" if base is None else f"{100 * (p.val - base):+.1f}")
            row.append("" if theirs is None else f"{theirs - ABLATIONS['none']:+.1f}")
        rows.append(row)
    text = _table(heads, rows, len(first))
    return text + ("\n" + _comparison(sweep) if sweep.key == "model" else "")


def _comparison(sweep: Sweep) -> str:
    """Validation accuracy by question type, the paper's test figures on CLEVR under each row."""
    rows = []
    ours = {str(p.value): p for p in sweep.points}
    for name in dict.fromkeys([*TEST_ACCURACY, *ours]):
        if name in ours:
            shares = {"overall": ours[name].val, **ours[name].by_type}
            cells = [f"{100 * shares[c]:.1f}" if c in shares else "" for c in COLUMNS]
            rows.append([name, "ours", *cells])
        if name in TEST_ACCURACY:
            rows.append([name, "paper, on CLEVR", *(f"{v:.1f}" for v in TEST_ACCURACY[name])])
    return _table(["model", "", *COLUMNS], rows, 2)


def _table(heads: list[str], rows: list[list[str]], words: int) -> str:
    """Markdown; all but the first ``words`` columns are numbers."""
    marks = ["---"] * words + ["---:"] * (len(heads) - words)
    return "".join(f"| {' | '.join(line)} |\n" for line in (heads, marks, *rows))


def csv_table(sweep: Sweep) -> str:
    """The points as CSV, accuracies as shares."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    kinds = list(dict.fromkeys(k for p in sweep.points for k in p.by_type))
    series = [] if sweep.series_key is None else [sweep.series_key]
    heads = ["runs", "train_accuracy", "val_accuracy", "val_spread", "gap", *kinds]
    writer.writerow([*series, sweep.key, *heads])
    for p in sweep.points:
        spread = "" if p.val_spread is None else f"{p.val_spread:.6f}"
        accuracies = (f"{p.train:.6f}", f"{p.val:.6f}", spread, f"{p.gap:.6f}")
        types = (f"{p.by_type[k]:.6f}" if k in p.by_type else "" for k in kinds)
        writer.writerow([*([p.series] if series else []), p.value, p.runs, *accuracies, *types])
    return out.getvalue()


def report_sweep(folder: str | Path, key: str | None = None, series_key: str | None = None) -> str:
    """Write ``report.md``, ``report.csv`` and ``report.png`` into a sweep's folder; the tables."""
    folder = Path(folder)
    sweep = summarize(read_runs(folder), key, series_key)
    tables = markdown_tables(sweep)
    with exclusive(folder, "report"):
        write_file(folder / "report.md", tables)
        write_file(folder / "report.csv", csv_table(sweep))
        draw_sweep(sweep, folder / "report.png")
    return tables


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
