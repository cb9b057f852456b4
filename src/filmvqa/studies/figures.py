"""Figures: sheets of images with questions, and a diagram of the network."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filmvqa.features.images import list_images, load_image, load_mask
from filmvqa.settings.typed import Cells, checked
from filmvqa.system.errors import UserError
from filmvqa.system.figure_file import new_figure, save_figure
from filmvqa.system.files import refuse_overwriting
from filmvqa.worlds.engine.schema import Question, read_questions


def draw_sheet(
    questions: str | Path,
    images_folder: str | Path,
    target: str | Path,
    *,
    rows: int = 2,
    columns: int = 3,
    size: tuple[int, int] = (320, 480),
    masks_folder: str | Path | None = None,
) -> None:
    """Write a PNG of the first images of a split, each with one of its questions and the answer, or
    with an expression, and the objects that it refers to outlined.

    Parameters
    ----------
    questions
        The question JSON of the split.
    rows, columns
        The grid of images.
    size
        (H, W) to which images are resized.
    masks_folder
        The masks of the objects, which expressions need.

    Raises
    ------
    UserError
        If ``target`` is one of the inputs, if there are fewer images than the grid has cells, or
        for rows or columns that no figure has.
    """
    checked(rows, Cells, "rows")
    checked(columns, Cells, "columns")
    refuse_overwriting(target, questions, images_folder)
    by_image: dict[int, list[Question]] = {}
    for record in read_questions(questions).questions:
        by_image.setdefault(record.image_index or 0, []).append(record)
    images = list_images(images_folder, missing_images="leave_out", max_images=rows * columns)
    if len(images) < rows * columns:
        raise UserError(
            f"{images_folder}: has fewer than {rows * columns} images; lower rows or columns"
        )
    figure = new_figure(3.6 * columns, 2.95 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, (i, path) in zip(grid.flat, images.items(), strict=True):
        axes.imshow(load_image(path, size).transpose(1, 2, 0))
        axes.set(xticks=[], yticks=[])
        if not (records := by_image.get(i)):
            continue
        record = records[i % len(records)]
        text = record.question if record.answer is None else f"{record.question} {record.answer}"
        if record.objects is not None and masks_folder is not None:
            shown = load_mask(Path(masks_folder) / path.name, size)[0]
            outline(axes, np.isin(shown, record.objects))
        axes.set_xlabel(textwrap.fill(text, 52), fontsize=8)
    save_figure(figure, target, dpi=100)


def outline(axes: Any, mask: NDArray[np.bool_], color: str = "yellow") -> None:
    """Draw the outline of a mask (H, W) over an image of its size; nothing for an empty one."""
    if mask.any():
        axes.contour(mask, [0.5], colors=[color], linewidths=2)


def draw_film(
    model: dict[str, Any], feature_shape: tuple[int, int, int], target: str | Path
) -> None:
    """Draw the FiLM network of a model config as a PNG, as in the paper's figure 3.

    ``model`` has options of ``FilmNet``; ``feature_shape`` is (C, H, W).
    """
    from filmvqa.models.film_net import FilmNet
    from filmvqa.models.options import with_defaults

    model = with_defaults(FilmNet, model)
    figure = new_figure(8.6, 4.8)
    axes = figure.subplots()
    axes.set(xlim=(0, 8.6), ylim=(0, 4.8))
    axes.axis("off")
    generator = _draw_film_generator(axes, model)
    block = _draw_vision(axes, model, feature_shape)
    _arrow(axes, generator, block, "γ = 1 + Δγ,  β", dx=-0.75, dy=0.1)
    save_figure(figure, target, dpi=120)


def _draw_film_generator(axes: Any, model: dict[str, Any]) -> Any:
    """Draw the way from the question to γ and β; returns the box of the last layer."""
    encoder, language = model["encoder"], "#dbe9f6"
    cell = f"{encoder['cell'].upper()} {encoder['hidden_dim']}\nat the true end"
    question = _box(axes, 1.2, 4.5, "question tokens", "white")
    embedding = _box(axes, 1.2, 3.7, f"embedding {encoder['embedding_dim']}", language)
    recurrent = _box(axes, 1.2, 2.8, cell, language)
    num_outputs = f"{model['num_blocks']}×2×{model['channels']}"
    generator = _box(axes, 1.2, 1.9, f"linear to {num_outputs}", "#fbe3c0")
    _arrow(axes, question, embedding)
    _arrow(axes, embedding, recurrent)
    _arrow(axes, recurrent, generator)
    return generator


def _draw_vision(axes: Any, model: dict[str, Any], feature_shape: tuple[int, int, int]) -> Any:
    """Draw the way from the features to the answer; returns the box of the residual blocks."""
    color, (_, height, width) = "#e8f0d8", feature_shape
    features_text = f"image features {'×'.join(map(str, feature_shape))}"
    block_text = (
        "1×1 convolution, ReLU\n3×3 convolution\nbatch norm without affine\n"
        "FiLM:  γ · x + β\nReLU, plus the first ReLU's output"
    )
    units = [f"\n{dim} units, batch norm, ReLU" for dim in model["classifier"]["hidden_dims"]]
    classifier_text = (
        f"1×1 convolution to {model['classifier']['projection_dim']}, batch norm, ReLU, global "
        f"max pool{''.join(units[:3])}"
    )
    features = _box(axes, 5.2, 4.5, features_text, "white")
    stem = _box(axes, 5.2, 3.7, "3×3 convolution, batch norm, ReLU", color)
    block = _box(axes, 5.2, 1.9, block_text, color)
    classifier = _box(axes, 4.3, 0.4, classifier_text, color)
    answer = _box(axes, 8.0, 0.4, "answer", "white")
    axes.text(6.5, 1.83, f"× {model['num_blocks']}", fontsize=14, color="0.3")
    coordinates_text = "coordinate maps join every\n1×1 convolution and the stem"
    axes.text(6.4, 4.05, coordinates_text, fontsize=8, color="0.3")
    _arrow(axes, features, stem)
    _arrow(axes, stem, block, f"{model['channels']}×{height}×{width}", dy=0.3)
    _arrow(axes, block, classifier, dx=0.4)
    _arrow(axes, classifier, answer)
    return block


def _box(axes: Any, x: float, y: float, text: str, color: str) -> Any:
    """Draw a text in a rounded box with its centre at (x, y)."""
    style = {"boxstyle": "round,pad=0.45", "facecolor": color, "edgecolor": "0.4"}
    return axes.text(x, y, text, ha="center", va="center", fontsize=9, bbox=style)


def _arrow(
    axes: Any, start: Any, end: Any, text: str = "", *, dx: float = 0.08, dy: float = 0.0
) -> None:
    """Draw an arrow between two boxes, its text shifted by (dx, dy) from the middle."""
    (x0, y0), (x1, y1) = start.get_position(), end.get_position()
    style = {
        "arrowstyle": "-|>", "color": "0.4", "shrinkA": 0, "shrinkB": 0,
        "patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch(),
    }  # fmt: skip
    axes.annotate("", (x1, y1), (x0, y0), arrowprops=style)
    axes.text((x0 + x1) / 2 + dx, (y0 + y1) / 2 + dy, text, fontsize=8, color="0.3")
