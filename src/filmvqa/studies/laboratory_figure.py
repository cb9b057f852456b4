"""The figures of a claim: test score by setting, and score while training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any

from filmvqa.studies.claims import Claim, Setting, label_of
from filmvqa.studies.paper_results import MAC_BY_FRACTION
from filmvqa.studies.sweep_figure import set_value_ticks
from filmvqa.system.figure_file import new_figure, save_figure

_WIDTH = 8.0
#: More curves in one panel cannot be told apart.
_CURVES = 6


def draw_settings(claim: Claim, settings: Sequence[Setting], target: Path) -> None:
    """Write a PNG of the test score of each setting: each seed's as a point, and their mean."""
    height = 4.2 if claim.axis else 1.3 + 0.3 * len(settings)
    figure = new_figure(_WIDTH, height)
    axes = figure.subplots()
    if claim.axis:
        _draw_along_axis(axes, claim, settings)
    else:
        _draw_rows(axes, claim, settings)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=3, frameon=False)
    save_figure(figure, target, dpi=120)


def _draw_along_axis(axes: Any, claim: Claim, settings: Sequence[Setting]) -> None:
    others = [key.key for key in claim.keys if key.key != claim.axis]
    series: dict[str, list[Setting]] = {}
    for setting in settings:
        series.setdefault(label_of(claim, setting, others), []).append(setting)
    for i, (label, members) in enumerate(series.items()):
        values = [setting.values[claim.axis or ""] for setting in members]
        color, prefix = f"C{i}", f"{label}: " if label else ""
        trains = [100 * mean(r.run.train for r in s.runs) for s in members]
        axes.plot(values, trains, ":", color=color, label=f"{prefix}training")
        axes.plot(
            values, [100 * mean(s.tests) for s in members], "-", color=color,
            label=f"{prefix}test",
        )  # fmt: skip
        for value, setting in zip(values, members, strict=True):
            tests = [100 * test for test in setting.tests]
            axes.plot([value] * len(tests), tests, "o", color=color, markersize=4, alpha=0.7)
    values = sorted({s.values[claim.axis or ""] for s in settings})
    if claim.paper == "data_efficiency":
        published = {x: y for x, y in MAC_BY_FRACTION.items() if x >= values[0]}
        axes.plot(*zip(*published.items(), strict=True), "k--", label="MAC on CLEVR, published")
        ticks = sorted({*values, *published})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{100 * value:g}%" for value in ticks])
        axes.minorticks_off()
    else:
        set_value_ticks(axes, values)
    name = next(key.name for key in claim.keys if key.key == claim.axis)
    axes.set(xlabel=name, ylabel=f"{settings[0].score} (%)")


def _draw_rows(axes: Any, claim: Claim, settings: Sequence[Setting]) -> None:
    heights = range(len(settings) - 1, -1, -1)  # the first is at the top
    for height, setting in zip(heights, settings, strict=True):
        first = height == heights[0]
        tests = [100 * test for test in setting.tests]
        train = 100 * mean(r.run.train for r in setting.runs)
        axes.plot(train, height, "|", color="C1", markersize=12, label="training" if first else "")
        axes.plot(
            tests, [height] * len(tests), "o", color="C0", markersize=4, alpha=0.7,
            label="test, each seed" if first else "",
        )  # fmt: skip
        axes.plot(
            mean(tests), height, "D", color="C0", markerfacecolor="none", markersize=9,
            label="test, mean" if first else "",
        )  # fmt: skip
    keys = [key.key for key in claim.keys]
    axes.set_yticks(heights, [label_of(claim, setting, keys) for setting in settings])
    axes.set_ylim(-0.7, len(settings) - 0.3)
    axes.set_xlabel(f"{settings[0].score} (%)")


def draw_courses(claim: Claim, settings: Sequence[Setting], target: Path) -> None:
    """Write a PNG of training and validation score against questions: means over seeds, as far
    as all seeds went, in panels of a few settings each, or of one value of ``claim.panels``;
    settings that differ in that alone have one color."""
    panels = _panels(claim, settings)
    keys = [key.key for key in claim.keys if key.key != claim.panels]
    labels = [[label_of(claim, setting, keys) or "–" for setting in members] for members in panels]
    colors = {label: f"C{i}" for i, label in enumerate(dict.fromkeys(chain(*labels)))}
    count = max(len(members) for members in panels)
    rows = math.ceil(len(panels) / 2)
    columns = min(2, len(panels))
    figure = new_figure(_WIDTH, 0.6 + (3.2 + 0.17 * count) * rows)
    grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False)
    for axes, members, names in zip(grid.flat, panels, labels, strict=False):
        for setting, name in zip(members, names, strict=True):
            evaluations = list(zip(*(r.run.course for r in setting.runs), strict=False))
            questions = [
                setting.runs[0].run.questions_after(at[0].step) / 1000 for at in evaluations
            ]
            for field, style in (("train", ":"), ("val", "-")):
                accuracies = [100 * mean(getattr(e, field) for e in at) for at in evaluations]
                look: dict[str, Any] = {"linestyle": style, "color": colors[name]}
                look["label"] = name if field == "val" else ""
                if len(questions) == 1:  # a model that is fitted at once, and has no course
                    axes.axhline(accuracies[0], **look)
                    continue
                axes.plot(questions, accuracies, linewidth=1.2, **look)
        axes.grid(alpha=0.3)
        title = label_of(claim, members[0], [claim.panels]) if claim.panels else None
        # Above, where it covers no curve.
        legend = axes.legend(
            title=title, fontsize="small", title_fontsize="small", alignment="left",
            loc="lower left", bbox_to_anchor=(0, 1), frameon=False,
        )  # fmt: skip
        legend.get_title().set_fontweight("bold")
    for axes in grid.flat[len(panels) :]:
        axes.set_axis_off()
    for axes in grid.flat[len(panels) - columns : len(panels)]:  # the lowest of each column
        axes.tick_params(labelbottom=True)
    figure.supxlabel("questions, in thousands", fontsize="medium")
    label = f"{settings[0].score} (%): training dotted, validation solid"
    figure.supylabel(label, fontsize="medium")
    save_figure(figure, target, dpi=120)


def _panels(claim: Claim, settings: Sequence[Setting]) -> list[Sequence[Setting]]:
    if claim.panels is None:
        count = math.ceil(len(settings) / math.ceil(len(settings) / _CURVES))  # as even as can be
        return [settings[i : i + count] for i in range(0, len(settings), count)]
    groups: dict[str, list[Setting]] = {}
    for setting in settings:
        groups.setdefault(label_of(claim, setting, [claim.panels]), []).append(setting)
    return list(groups.values())
