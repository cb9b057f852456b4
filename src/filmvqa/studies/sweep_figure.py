"""The figure of a sweep: curves against a numeric key, or a row for each value of another key."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from filmvqa.studies.paper_results import ABLATIONS, TEST_ACCURACY
from filmvqa.studies.sweeps import Sweep, SweepPoint
from filmvqa.system.figures import add_legend, add_plots, draw_figure


def draw_sweep(sweep: Sweep, target: str | Path) -> None:
    """Write a PNG of training and validation score; the gap between them is filled."""
    is_long_list = not sweep.numeric and len(sweep.points) > 4
    height = 1.2 + 0.28 * len(sweep.points) if is_long_list else 4.0
    with draw_figure(target, 6, height, dpi=150) as figure:
        (axes,) = add_plots(figure)
        if sweep.numeric:
            _draw_curves(axes, sweep)
        else:
            _draw_rows(axes, sweep)
            add_legend(figure, 4)


def _percent(points: list[SweepPoint], field: str) -> list[float]:
    return [100 * (getattr(p, field) or 0.0) for p in points]


def _draw_curves(axes: Any, sweep: Sweep) -> None:
    for i, series in enumerate(dict.fromkeys(p.series for p in sweep.points)):
        points = [p for p in sweep.points if p.series == series]
        values = [p.value for p in points]
        train, val = _percent(points, "train"), _percent(points, "val")
        prefix = f"{series}, " if series else ""
        color = f"C{2 * i}"
        axes.fill_between(values, train, val, color=color, alpha=0.12)
        axes.plot(values, train, "o--", color=color, alpha=0.6, label=f"{prefix}training sample")
        axes.errorbar(
            values, val, _percent(points, "val_spread"), fmt="o-", color=color, capsize=3,
            label=f"{prefix}validation",
        )  # fmt: skip
    set_value_ticks(axes, sorted({p.value for p in sweep.points}))
    axes.set(xlabel=sweep.key, ylabel=f"{sweep.score} (%)")
    axes.legend()


def set_value_ticks(axes: Any, values: list[float]) -> None:
    """Choose a logarithmic or linear axis for sorted values, which may include 0."""
    positive = [v for v in values if v > 0]
    if positive and max(values) > 20 * min(positive):
        # Linear between 0 and the smallest positive value, logarithmic above it.
        axes.set_xscale("symlog", linthresh=min(positive))
        ticks = sorted({0.0} & set(values)) + [
            10.0**e for e in range(math.floor(math.log10(min(positive))),
                                   math.floor(math.log10(max(values))) + 1)
        ]  # fmt: skip
        axes.set_xticks(ticks)
        axes.minorticks_off()
    else:
        axes.set_xticks(values)


def _draw_rows(axes: Any, sweep: Sweep) -> None:
    points = sweep.points[::-1]  # the first point is at the top
    heights = range(len(points))
    labels = [p.label if p.series is None else f"{p.series}, {p.label}" for p in points]
    train, val = _percent(points, "train"), _percent(points, "val")
    axes.hlines(heights, train, val, color="0.6", alpha=0.4, linewidth=6, label="gap")
    axes.plot(train, heights, "o", color="C1", label="training sample")
    axes.errorbar(val, heights, xerr=_percent(points, "val_spread"), fmt="o", color="C0",
                  capsize=3, label="validation")  # fmt: skip
    overall = {model: accuracies[0] for model, accuracies in TEST_ACCURACY.items()}
    published = {"ablation": ABLATIONS, "model": overall}.get(sweep.key, {})
    paper_heights = [i for i, p in enumerate(points) if str(p.value) in published]
    if paper_heights:
        paper_values = [published[str(points[i].value)] for i in paper_heights]
        axes.plot(paper_values, paper_heights, "k|", markersize=10, label="paper, on CLEVR")
    axes.set_yticks(heights, labels)
    axes.set(xlabel=f"{sweep.score} (%)", ylabel=sweep.key)
    axes.set_ylim(-0.7, len(points) - 0.3)
    axes.grid(visible=False, axis="y")
