"""Figures of corrections: mean IoU by number of hints, and label maps before and after hints."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filmvqa.features.images import find_pictures, read_picture
from filmvqa.system.errors import UserError
from filmvqa.system.figures import (
    add_legend,
    add_pictures,
    add_plots,
    draw_figure,
    draw_intervals,
    write_below,
)
from filmvqa.tasks.label_maps import LABELS
from filmvqa.uses.correction.rounds import Course
from filmvqa.uses.correction.segmented_images import SegmentedImages

#: RGB of the labels: metal in dark colors and rubber in light ones, with a hue for each shape.
_COLORS = np.array(
    [[235, 235, 235], [251, 154, 153], [166, 206, 227], [178, 223, 138],
     [200, 20, 30], [25, 95, 175], [35, 135, 40]], np.uint8
)  # fmt: skip


def draw_courses(report: dict[str, Any], target: str | Path) -> None:
    """Write a PNG of each conditioning's mean IoU by number of hints.

    Dotted curves are for hints about other images. Bars are 95% intervals of the gains.
    """
    with draw_figure(target, 6, 4) as figure:
        (axes,) = add_plots(figure)
        for i, (name, series) in enumerate(report["series"].items()):
            base = series["mean_iou"][0]
            for key, style, label in (
                ("gain", "o-", name),
                ("others_gain", "x:", f"{name}, hints about other images"),
            ):
                gains = [{"mean": 0.0, "low": 0.0, "high": 0.0}, *series[key]]
                mean, *bounds = (
                    100 * (base + np.array([gain[k] for gain in gains]))
                    for k in ("mean", "low", "high")
                )
                draw_intervals(
                    axes, np.arange(len(gains)) + 0.06 * i, mean, np.stack(bounds),
                    fmt=style, color=f"C{i}", capsize=3, label=label,
                )  # fmt: skip
        axes.set(xlabel="hints", ylabel="mean IoU (%)")
        add_legend(figure, 2)


def draw_examples(
    segmented: SegmentedImages, courses: dict[str, Course], target: str | Path, count: int
) -> None:
    """Write a PNG of the first ``count`` images with two or more mistakes.

    A row shows the image, its true label map, the prediction without hints, and the prediction of
    each conditioning after all hints, with the hints below.

    Raises
    ------
    UserError
        If an image is missing.
    """
    from matplotlib.patches import Patch  # takes half a second

    hinted = [
        i for i in range(len(segmented)) if all(len(c.hints[i]) > 1 for c in courses.values())
    ]
    chosen = hinted[:count] or list(range(min(count, len(segmented))))
    folder = segmented.asked.layout.image_folder(segmented.split)
    pictures = find_pictures(folder)
    columns = 3 + len(courses)
    with draw_figure(target, 2.1 * columns, 1.0, dpi=90) as figure:
        grid = add_pictures(figure, columns * len(chosen), columns)
        for row, i in enumerate(chosen):
            image = int(segmented.images[i])
            if image not in pictures:
                raise UserError(f"{folder}: has no image {image} to draw; add it")
            panels: list[tuple[str, NDArray[np.uint8], list[str]]] = [
                ("image", read_picture(pictures[image]), []),
                ("truth", _COLORS[segmented.truths[i]], []),
                ("without hints", _COLORS[segmented.predictions[i]], []),
            ]
            for name, course in courses.items():
                hints = course.hints[i]
                title = f"{name}, {len(hints)} hint{'s' * (len(hints) != 1)}"
                panels.append((title, _COLORS[course.predictions[-1, i]], hints))
            for axes, (title, pixels, hints) in zip(grid[row * columns :], panels, strict=False):
                axes.imshow(pixels, interpolation="nearest")
                axes.set_title(title, fontsize=9)
                write_below(axes, *hints, width=32, size=7)
        lines = max(axes.get_xlabel().count("\n") + 1 for axes in grid)
        figure.set_figheight((2.5 + 0.16 * lines) * len(chosen) + 0.6)
        figure.get_layout_engine().set(h_pad=0.08)  # inches
        handles = [Patch(color=color / 255) for color in _COLORS]
        place = {"loc": "outside lower center", "fontsize": 8}
        add_legend(figure, 4, (handles, LABELS), **place)
