"""Sheets of images with questions, or with referring expressions and predicted masks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from filmvqa.features.images import (
    FileKind,
    find_pictures,
    list_images,
    load_image,
    load_mask,
    read_picture,
)
from filmvqa.system.errors import UserError
from filmvqa.system.figures import add_pictures, draw_figure, outline, write_below
from filmvqa.system.files import refuse_overwriting
from filmvqa.system.layout import DatasetLayout
from filmvqa.tasks.masks import MaskPrediction, RunLengths
from filmvqa.tasks.protocol import read_predictions
from filmvqa.worlds.engine.schema import Question, read_questions

#: (H, W) of the images of a sheet.
_SIZE = (320, 480)


def list_first(
    folder: str | Path, count: int, kind: FileKind | None = None, name: str = "images"
) -> dict[int, Path]:
    """List the first images (or other files) of a split by index.

    Raises
    ------
    UserError
        If there are fewer.
    """
    paths = list_images(folder, missing_images="leave_out", max_images=count, kind=kind)
    if len(paths) < count:
        raise UserError(f"{folder}: has fewer than {count} {name}; lower rows or columns")
    return paths


def group_by_image(questions: str | Path) -> dict[int, list[Question]]:
    """Group the questions of a question JSON by image."""
    by_image: dict[int, list[Question]] = {}
    for record in read_questions(questions).questions:
        by_image.setdefault(record.image_index or 0, []).append(record)
    return by_image


def read_by_index(questions: str | Path) -> dict[int, Question]:
    """Read the questions of a question JSON by ``question_index``, or by position without one."""
    records = read_questions(questions).questions
    return {i if q.question_index is None else q.question_index: q for i, q in enumerate(records)}


def draw_sheet(
    questions: str | Path,
    images_folder: str | Path,
    target: str | Path,
    *,
    rows: int = 2,
    columns: int = 3,
    masks_folder: str | Path | None = None,
) -> None:
    """Write a PNG of the first images of a split, each with one of its questions and the answer.

    A referring expression has no answer; its objects are outlined.

    Parameters
    ----------
    questions
        The question JSON of the split.
    rows, columns
        The grid of images.
    masks_folder
        The object masks of the images; only expressions need them.

    Raises
    ------
    UserError
        If ``target`` is one of the inputs, or there are fewer images than cells.
    """
    refuse_overwriting(target, questions, images_folder)
    by_image, paths = group_by_image(questions), list_first(images_folder, rows * columns)
    with draw_figure(target, 3.6 * columns, 2.95 * rows, dpi=100) as figure:
        cells = add_pictures(figure, rows * columns, columns)
        for axes, (i, path) in zip(cells, paths.items(), strict=True):
            axes.imshow(load_image(path, _SIZE).transpose(1, 2, 0))
            record = write_question(axes, by_image.get(i, []), i, width=52)
            if record is not None and masks_folder is not None:
                _outline_objects(axes, record, Path(masks_folder) / f"{path.stem}.png", _SIZE)


def write_question(
    axes: Any, questions: Sequence[Question], image: int, width: int
) -> Question | None:
    """Write one of an image's questions with its answer below the image; return the question."""
    if not questions:
        return None
    question = questions[image % len(questions)]
    write_below(axes, f"{question.question} {question.answer or ''}", width=width, size=8)
    return question


def _outline_objects(axes: Any, question: Question, mask: Path, size: tuple[int, int]) -> None:
    """Outline the objects of an expression; ``mask`` is the mask file of the image."""
    if question.objects is not None:
        outline(axes, np.isin(load_mask(mask, size)[0], question.objects))


def draw_masks(
    predictions: str | Path,
    layout: DatasetLayout,
    split: str,
    target: str | Path,
    *,
    rows: int = 3,
    columns: int = 4,
) -> None:
    """Write a PNG of images at equal distances in a split, each with one of its expressions.

    The objects of the expression are outlined, and the predicted mask is in color.

    Parameters
    ----------
    predictions
        The predictions that ``evaluate.py`` wrote for a network that draws masks.
    rows, columns
        The grid of images.

    Raises
    ------
    UserError
        If a file is missing or broken, or the predictions are not masks.
    """
    refuse_overwriting(target, predictions)
    predicted: dict[int, list[MaskPrediction]] = {}
    for record in read_predictions(Path(predictions)):
        if not isinstance(record, MaskPrediction):
            raise UserError(f"{predictions}: has no masks; evaluate a network that draws them")
        predicted.setdefault(record.image_index or 0, []).append(record)
    expressions = read_by_index(layout.question_json(split))
    pictures = find_pictures(layout.image_folder(split))
    images = sorted(predicted.keys() & pictures.keys())
    chosen = [images[i] for i in np.linspace(0, len(images) - 1, rows * columns).astype(int)]
    with draw_figure(target, 2.6 * columns, 3.0 * rows, dpi=80) as figure:
        cells = add_pictures(figure, rows * columns, columns)
        for place, (axes, image) in enumerate(zip(cells, chosen, strict=True)):
            record = predicted[image][place % len(predicted[image])]
            picture = read_picture(pictures[image])
            axes.imshow(_tint(picture, mask_of(record.mask)))
            expression = expressions[record.question_index]
            mask_path = layout.mask_folder(split) / f"{pictures[image].stem}.png"
            height, width = picture.shape[:2]
            _outline_objects(axes, expression, mask_path, (height, width))
            score = [] if record.iou is None else [f"IoU {100 * record.iou:.0f}%"]
            write_below(axes, expression.question, *score, width=36, size=8)


def mask_of(run_lengths: RunLengths) -> NDArray[np.bool_]:
    """Decode run lengths to a mask (h, w); the inverse of ``tasks.masks.run_lengths``.

    Raises
    ------
    ValueError
        If the runs are not as long as the mask.
    """
    counts = run_lengths.counts
    values = np.repeat(np.arange(len(counts)) % 2 == 1, counts)
    height, width = run_lengths.size
    return values.reshape(width, height).T


def _tint(picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Tint a picture (H, W, 3) inside a mask (h, w), and make it paler outside."""
    height, width = picture.shape[:2]
    inside = Image.fromarray(mask).resize((width, height), Image.Resampling.NEAREST)
    colors = np.where(
        np.asarray(inside)[..., None],
        0.45 * picture + 0.55 * np.array([255, 40, 160]),
        0.75 * picture + 0.25 * 255,
    )
    return colors.astype(np.uint8)
