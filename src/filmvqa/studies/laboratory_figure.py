"""The figures of a claim: test score by setting, and score during training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from statistics import mean
from typing import Any

from filmvqa.studies.claims import Claim
from filmvqa.studies.judging import Setting, label_setting
from filmvqa.studies.paper_results import MAC_BY_FRACTION
from filmvqa.studies.sweep_figure import set_value_ticks
from filmvqa.system.figures import add_legend, add_plots, draw_figure

_WIDTH = 8.0
#: The largest number of curves that are distinguishable in one panel.
_CURVES = 6


def draw_settings(claim: Claim, settings: Sequence[Setting], target: Path) -> None:
    """Write a PNG of each setting's test score: a point for each seed, and the mean."""
    height = 4.2 if claim.axis else 1.3 + 0.3 * len(settings)
    with draw_figure(target, _WIDTH, height) as figure:
        (axes,) = add_plots(figure)
        if claim.axis:
            _draw_along_axis(axes, claim, claim.axis, settings)
        else:
            _draw_rows(axes, claim, settings)
        add_legend(figure, 3)


def _draw_along_axis(axes: Any, claim: Claim, axis: str, settings: Sequence[Setting]) -> None:
    other_keys = [key.key for key in claim.keys if key.key != axis]
    for i, (label, members) in enumerate(_group_by_label(claim, settings, other_keys).items()):
        values = [setting.values[axis] for setting in members]
        color, prefix = f"C{i}", f"{label}: " if label else ""
        trains = [100 * setting.train for setting in members]
        axes.plot(values, trains, ":", color=color, label=f"{prefix}training")
        tests = [100 * mean(setting.tests) for setting in members]
        axes.plot(values, tests, "-", color=color, label=f"{prefix}test")
        for value, setting in zip(values, members, strict=True):
            points = [100 * test for test in setting.tests]
            axes.plot([value] * len(points), points, "o", color=color, markersize=4, alpha=0.7)
    values = sorted({setting.values[axis] for setting in settings})
    if claim.paper == "data_efficiency":
        published = {x: y for x, y in MAC_BY_FRACTION.items() if x >= values[0]}
        axes.plot(*zip(*published.items(), strict=True), "k--", label="MAC on CLEVR, published")
        ticks = sorted({*values, *published})
        axes.set_xscale("log")
        axes.set_xticks(ticks, [f"{100 * value:g}%" for value in ticks])
        axes.minorticks_off()
    else:
        set_value_ticks(axes, values)
    name = next(key.name for key in claim.keys if key.key == axis)
    axes.set(xlabel=name, ylabel=f"{settings[0].score} (%)")


def _draw_rows(axes: Any, claim: Claim, settings: Sequence[Setting]) -> None:
    heights = range(len(settings) - 1, -1, -1)  # the first is at the top
    trains = [100 * setting.train for setting in settings]
    means = [100 * mean(setting.tests) for setting in settings]
    tests = [(100 * x, y) for y, s in zip(heights, settings, strict=True) for x in s.tests]
    axes.plot(trains, heights, "|", color="C1", markersize=12, label="training")
    look: dict[str, Any] = {"markersize": 4, "alpha": 0.7, "label": "test, each seed"}
    axes.plot(*zip(*tests, strict=True), "o", color="C0", **look)
    look = {"markersize": 9, "markerfacecolor": "none", "label": "test, mean"}
    axes.plot(means, heights, "D", color="C0", **look)
    keys = [key.key for key in claim.keys]
    axes.set_yticks(heights, [label_setting(claim, setting, keys) for setting in settings])
    axes.set_ylim(-0.7, len(settings) - 0.3)
    axes.set_xlabel(f"{settings[0].score} (%)")


def draw_courses(claim: Claim, settings: Sequence[Setting], target: Path) -> None:
    """Write a PNG of training and validation score against questions, as means over seeds.

    Curves end where the first seed ends. A panel has a few settings, or one value of
    ``claim.panels``; settings that differ only in that key share a color.
    """
    panels = _split_panels(claim, settings)
    keys = [key.key for key in claim.keys if key.key != claim.panels]
    labels = [
        [label_setting(claim, setting, keys) or "–" for setting in members] for members in panels
    ]
    colors = {label: f"C{i}" for i, label in enumerate(dict.fromkeys(chain(*labels)))}
    count = max(len(members) for members in panels)
    rows = math.ceil(len(panels) / 2)
    columns = min(2, len(panels))
    with draw_figure(target, _WIDTH, 0.6 + (3.2 + 0.17 * count) * rows) as figure:
        grid = add_plots(figure, rows, columns, sharex=True, sharey=True)
        for axes, members, names in zip(grid, panels, labels, strict=False):
            for setting, name in zip(members, names, strict=True):
                _draw_course(axes, setting, name, colors[name])
            title = label_setting(claim, members[0], [claim.panels]) if claim.panels else None
            # Above the panel, where it covers no curve.
            legend = axes.legend(
                title=title, fontsize="small", title_fontsize="small", alignment="left",
                loc="lower left", bbox_to_anchor=(0, 1), frameon=False,
            )  # fmt: skip
            legend.get_title().set_fontweight("bold")
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for axes in grid[len(panels) - columns : len(panels)]:  # the lowest of each column
            axes.tick_params(labelbottom=True)
        figure.supxlabel("questions, in thousands", fontsize="medium")
        label = f"{settings[0].score} (%): training dotted, validation solid"
        figure.supylabel(label, fontsize="medium")


def _draw_course(axes: Any, setting: Setting, name: str, color: str) -> None:
    first = setting.runs[0].run
    evaluations = list(zip(*(r.run.course for r in setting.runs), strict=False))
    questions = [first.count_questions(at[0].step) / 1000 for at in evaluations]
    for field, style in (("train", ":"), ("val", "-")):
        scores = [100 * mean(getattr(e, field) for e in at) for at in evaluations]
        label = name if field == "val" else ""
        look: dict[str, Any] = {"linestyle": style, "color": color, "label": label}
        if len(questions) == 1:  # the model has no course: it is fitted at once
            axes.axhline(scores[0], **look)
        else:
            axes.plot(questions, scores, linewidth=1.2, **look)


def _split_panels(claim: Claim, settings: Sequence[Setting]) -> list[Sequence[Setting]]:
    if claim.panels is None:
        count = math.ceil(len(settings) / math.ceil(len(settings) / _CURVES))  # even panels
        return [settings[i : i + count] for i in range(0, len(settings), count)]
    return list(_group_by_label(claim, settings, [claim.panels]).values())


def _group_by_label(
    claim: Claim, settings: Sequence[Setting], keys: Sequence[str]
) -> dict[str, list[Setting]]:
    """Group settings by their values of some keys."""
    groups: dict[str, list[Setting]] = {}
    for setting in settings:
        groups.setdefault(label_setting(claim, setting, keys), []).append(setting)
    return groups
