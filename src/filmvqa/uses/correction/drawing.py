"""Figures of corrections: mean IoU by the number of hints, and label maps before and after them."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filmvqa.features.images import find_pictures, read_picture
from filmvqa.system.errors import UserError
from filmvqa.system.figure_file import new_figure, save_figure
from filmvqa.tasks.labels import LABELS
from filmvqa.uses.correction.rounds import Course
from filmvqa.uses.correction.segmented_images import LabelMaps, SegmentedImages

#: RGB of the labels: metal in dark colours and rubber in light ones, a hue for each shape.
_COLORS = np.array(
    [[235, 235, 235], [251, 154, 153], [166, 206, 227], [178, 223, 138],
     [200, 20, 30], [25, 95, 175], [35, 135, 40]], np.uint8
)  # fmt: skip


def draw_courses(report: dict[str, Any], target: str | Path) -> None:
    """Write a PNG of the mean IoU of each conditioning by the number of hints, and of hints about
    other images; bars are 95% intervals of the gains."""
    figure = new_figure(6, 4)
    axes = figure.subplots()
    for i, (name, series) in enumerate(report["series"].items()):
        base = series["mean_iou"][0]
        hints = np.arange(len(series["gain"]) + 1)
        for key, style, label in (
            ("gain", "o-", name),
            ("others_gain", "x:", f"{name}, hints about other images"),
        ):
            gains = [{"mean": 0.0, "low": 0.0, "high": 0.0}, *series[key]]
            mean, low, high = (np.array([g[k] for g in gains]) for k in ("mean", "low", "high"))
            axes.errorbar(
                hints + 0.06 * i, 100 * (base + mean), 100 * np.stack([mean - low, high - mean]),
                fmt=style, color=f"C{i}", capsize=3, label=label,
            )  # fmt: skip
    axes.set(xlabel="hints", ylabel="mean IoU (%)")
    axes.grid(alpha=0.3)
    figure.legend(loc="outside upper center", ncols=2, frameon=False)
    save_figure(figure, target, dpi=120)


def draw_examples(
    segmented: SegmentedImages, courses: dict[str, Course], target: str | Path, count: int
) -> None:
    """Write a PNG of the first ``count`` images with two mistakes or more: the image, its label
    map, the prediction before, and with each conditioning after all hints, which stand below.

    Raises
    ------
    UserError
        If an image is not there.
    """
    hinted = [
        i for i in range(len(segmented)) if all(len(c.hints[i]) > 1 for c in courses.values())
    ]
    chosen = hinted[:count] or list(range(min(count, len(segmented))))
    columns = 3 + len(courses)
    lines = max(_hint_lines(c.hints[i]).count("\n") + 1 for c in courses.values() for i in chosen)
    figure = new_figure(2.1 * columns, (2.5 + 0.16 * lines) * len(chosen) + 0.6)
    figure.get_layout_engine().set(h_pad=0.08)  # inches
    grid = figure.subplots(len(chosen), columns, squeeze=False)
    for axes, i in zip(grid, chosen, strict=True):
        first = next(iter(courses.values())).predictions[0, i]
        panels: list[tuple[str, NDArray[np.uint8], str]] = [
            ("image", _picture(segmented, i), ""),
            ("truth", _painted(segmented.truths[i]), ""),
            ("without hints", _painted(first), ""),
        ]
        panels += [
            (f"{name}, {_counted(len(course.hints[i]))}", _painted(course.predictions[-1, i]),
             _hint_lines(course.hints[i]))
            for name, course in courses.items()
        ]  # fmt: skip
        for panel, (title, pixels, text) in zip(axes, panels, strict=True):
            panel.imshow(pixels, interpolation="nearest")
            panel.set_title(title, fontsize=9)
            panel.set_xlabel(text, fontsize=7)
            panel.set(xticks=[], yticks=[])
    handles = [_patch(*(color / 255).tolist()) for color in _COLORS]
    figure.legend(handles, LABELS, loc="outside lower center", ncols=4, frameon=False, fontsize=8)
    save_figure(figure, target, dpi=90)


def _hint_lines(hints: list[str]) -> str:
    return "\n".join(textwrap.fill(hint, 32) for hint in hints)


def _counted(hints: int) -> str:
    return f"{hints} hint{'s' * (hints != 1)}"


def _painted(labels: LabelMaps) -> NDArray[np.uint8]:
    painted: NDArray[np.uint8] = _COLORS[labels]
    return painted


def _patch(red: float, green: float, blue: float) -> Any:
    from matplotlib.patches import Patch  # takes half a second to import

    return Patch(color=(red, green, blue))


def _picture(segmented: SegmentedImages, place: int) -> NDArray[np.uint8]:
    image = int(segmented.images[place])
    folder = segmented.asked.layout.image_folder(segmented.split)
    pictures = find_pictures(folder)
    if image not in pictures:
        raise UserError(f"{folder}: has no image {image} to draw; add it")
    return read_picture(pictures[image])
