"""What a sweep found: table and figure of training and validation accuracy."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from filmvqa.errors import UserError
from filmvqa.files import atomic_write
from filmvqa.training.run import flatten

#: Keys that differ between the runs of a sweep without being what it varies.
_NOT_VARIED = ("run", "seed", "name")


@dataclass(frozen=True)
class SweepRun:
    """One finished run: its flat config and its evaluation with the best validation accuracy."""

    folder: Path
    config: dict[str, Any]
    step: int
    train: float
    val: float


@dataclass(frozen=True)
class SweepPoint:
    """Runs that differ in nothing but their seed: mean accuracies, spread over seeds."""

    value: Any
    train: float
    val: float
    val_spread: float | None
    runs: int

    @property
    def gap(self) -> float:
        return self.train - self.val


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
        records = [json.loads(line) for line in metrics.read_text().splitlines()]
        evaluations = [r for r in records if "val_accuracy" in r]
        if not evaluations or not (metrics.parent / "config.yaml").exists():
            continue
        best = max(evaluations, key=lambda r: r["val_accuracy"])
        config = flatten(yaml.safe_load((metrics.parent / "config.yaml").read_text()))
        runs.append(
            SweepRun(
                metrics.parent, config, best["step"], best["train_accuracy"], best["val_accuracy"]
            )
        )
    if not runs:
        raise UserError(
            f"{folder}: no runs in it; make some with scripts/train.py -m sweep=weight_decay"
        )
    return runs


def summarize(runs: list[SweepRun], key: str | None = None) -> tuple[str, list[SweepPoint]]:
    """The varied key and one point for each of its values, in order.

    Parameters
    ----------
    key
        The flat key that the sweep varied; None finds it.

    Raises
    ------
    UserError
        If no key, or more than one, differs between the runs.
    """
    if key is None:
        keys = {k for run in runs for k in run.config} - set(_NOT_VARIED)
        varied = sorted(k for k in keys if len({str(run.config.get(k)) for run in runs}) > 1)
        if len(varied) != 1:
            found = ", ".join(varied) or "nothing"
            raise UserError(f"{found} differs between the runs; name one with key=<key>")
        (key,) = varied
    groups: dict[Any, list[SweepRun]] = {}
    for run in runs:
        groups.setdefault(run.config.get(key), []).append(run)
    numeric = all(isinstance(v, int | float) for v in groups)
    order = sorted(groups, key=(lambda v: v) if numeric else str)
    return key, [
        SweepPoint(
            value=value,
            train=mean(r.train for r in groups[value]),
            val=mean(r.val for r in groups[value]),
            val_spread=stdev(vals) if len(vals := [r.val for r in groups[value]]) > 1 else None,
            runs=len(vals),
        )
        for value in order
    ]


def markdown_table(key: str, points: list[SweepPoint]) -> str:
    """The points as a Markdown table, accuracies in percent."""
    lines = [
        f"| {key} | runs | training | validation | gap |",
        "|---|---:|---:|---:|---:|",
    ]
    for p in points:
        spread = "" if p.val_spread is None else f" ± {100 * p.val_spread:.2f}"
        value = f"{p.value:g}" if isinstance(p.value, int | float) else str(p.value)
        lines.append(
            f"| {value} | {p.runs} | {100 * p.train:.2f} | {100 * p.val:.2f}{spread} "
            f"| {100 * p.gap:+.2f} |"
        )
    return "\n".join(lines) + "\n"


def csv_table(key: str, points: list[SweepPoint]) -> str:
    """The points as CSV, accuracies as shares."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow([key, "runs", "train_accuracy", "val_accuracy", "val_spread", "gap"])
    for p in points:
        spread = "" if p.val_spread is None else f"{p.val_spread:.6f}"
        accuracies = (f"{p.train:.6f}", f"{p.val:.6f}", spread, f"{p.gap:.6f}")
        writer.writerow([p.value, p.runs, *accuracies])
    return out.getvalue()


def draw(key: str, points: list[SweepPoint], target: str | Path) -> None:
    """Training and validation accuracy against the varied key, the gap between them filled."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    numeric = all(isinstance(p.value, int | float) for p in points)
    values = [p.value if numeric else i for i, p in enumerate(points)]
    train, val = ([100 * getattr(p, name) for p in points] for name in ("train", "val"))
    axes.fill_between(values, train, val, color="0.5", alpha=0.2, label="gap")
    axes.plot(values, train, "o-", color="C1", label="training sample")
    spreads = [100 * (p.val_spread or 0.0) for p in points]
    axes.errorbar(values, val, spreads, fmt="o-", color="C0", capsize=3, label="validation")
    if numeric and (positive := [v for v in values if v > 0]) and max(values) > 20 * min(positive):
        # 0 belongs on the axis too: linear below the smallest positive value, decades above it.
        axes.set_xscale("symlog", linthresh=min(positive))
        ticks = sorted({0.0} & set(values)) + [
            10.0**e for e in range(math.floor(math.log10(min(positive))),
                                   math.floor(math.log10(max(values))) + 1)
        ]  # fmt: skip
        axes.set_xticks(
            ticks, ["0" if t == 0 else f"$10^{{{round(math.log10(t))}}}$" for t in ticks]
        )
        axes.minorticks_off()
    elif not numeric:
        axes.set_xticks(values, [str(p.value) for p in points])
    axes.set(xlabel=key, ylabel="accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_write(target) as stream:
        figure.savefig(stream, format="png", dpi=150)


def report_sweep(folder: str | Path, key: str | None = None) -> str:
    """Write ``report.md``, ``report.csv`` and ``report.png`` into a sweep's folder; the table."""
    folder = Path(folder)
    key, points = summarize(read_runs(folder), key)
    table = markdown_table(key, points)
    with atomic_write(folder / "report.md") as stream:
        stream.write(table.encode())
    with atomic_write(folder / "report.csv") as stream:
        stream.write(csv_table(key, points).encode())
    draw(key, points, folder / "report.png")
    return table
