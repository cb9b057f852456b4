"""A figure of masks: images with expressions, what these refer to, and what a network drew."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from filmvqa.features.images import find_pictures, load_mask, read_picture
from filmvqa.settings.typed import Cells, checked
from filmvqa.studies.figures import outline
from filmvqa.system.errors import UserError
from filmvqa.system.figure_file import new_figure, save_figure
from filmvqa.system.files import refuse_overwriting
from filmvqa.system.layout import DatasetLayout
from filmvqa.tasks.records import Prediction, RunLengths, read_predictions
from filmvqa.worlds.engine.schema import read_questions


def draw_masks(
    predictions: str | Path,
    layout: DatasetLayout,
    split: str,
    target: str | Path,
    *,
    rows: int = 3,
    columns: int = 4,
) -> None:
    """Write a PNG of images at equal distances in a split, each with one of its expressions, the
    objects that it refers to outlined, and the predicted mask in colour.

    Parameters
    ----------
    predictions
        The file that ``evaluate.py`` wrote of a network that draws.
    rows, columns
        The grid of images.

    Raises
    ------
    UserError
        If a file is missing or broken, or the predictions are no masks.
    """
    checked(rows, Cells, "rows")
    checked(columns, Cells, "columns")
    refuse_overwriting(target, predictions)
    predicted: dict[int, list[Prediction]] = {}
    for record in read_predictions(Path(predictions)):
        if record.mask is None:
            raise UserError(f"{predictions}: has no masks; evaluate a network that draws them")
        predicted.setdefault(record.image_index or 0, []).append(record)
    expressions = {
        number if q.question_index is None else q.question_index: q
        for number, q in enumerate(read_questions(layout.question_json(split)).questions)
    }
    pictures = find_pictures(layout.image_folder(split))
    images = sorted(predicted.keys() & pictures.keys())
    chosen = [images[i] for i in np.linspace(0, len(images) - 1, rows * columns).astype(int)]
    figure = new_figure(2.6 * columns, 3.0 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for place, (axes, image) in enumerate(zip(grid.flat, chosen, strict=True)):
        record = predicted[image][place % len(predicted[image])]
        picture = read_picture(pictures[image])
        size = (picture.shape[0], picture.shape[1])
        if record.mask is not None:
            picture = _coloured(picture, mask_of(record.mask))
        axes.imshow(picture)
        axes.set(xticks=[], yticks=[])
        expression = expressions[record.question_index]
        if expression.objects is not None:
            path = layout.mask_folder(split) / pictures[image].name
            outline(axes, np.isin(load_mask(path, size)[0], expression.objects))
        text = textwrap.fill(expression.question, 36)
        iou = "" if record.iou is None else f"\nIoU {100 * record.iou:.0f}%"
        axes.set_xlabel(f"{text}{iou}", fontsize=8)
    save_figure(figure, target, dpi=80)


def mask_of(run_lengths: RunLengths) -> NDArray[np.bool_]:
    """The mask (h, w) of runs; the inverse of ``evaluation.masks.run_lengths``.

    Raises
    ------
    ValueError
        If the runs are not as long as the mask.
    """
    counts = run_lengths.counts
    values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    height, width = run_lengths.size
    return values.reshape(width, height).T


def _coloured(picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """A picture (H, W, 3) whose places outside a mask (h, w) are paler."""
    height, width = picture.shape[:2]
    large = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
    inside = np.asarray(large)[..., None]
    shown: NDArray[np.uint8] = np.where(
        inside, 0.45 * picture + 0.55 * np.array([255, 40, 160]), 0.75 * picture + 0.25 * 255
    ).astype(np.uint8)
    return shown
