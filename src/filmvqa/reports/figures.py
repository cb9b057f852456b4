"""Pictures for people: sheets of images with questions, the network drawn."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from filmvqa.clevr.schema import read_questions
from filmvqa.data.images import list_images, load_image
from filmvqa.errors import UserError
from filmvqa.files import atomic_write, refuse_overwriting


def draw_sheet(
    questions: str | Path,
    images_folder: str | Path,
    target: str | Path,
    *,
    rows: int = 2,
    columns: int = 3,
    size: tuple[int, int] = (320, 480),
) -> None:
    """A PNG of the first images of a split, each over one of its questions and the answer.

    ``size`` is (H, W): images of another shape are drawn in CLEVR's. Raises ``UserError`` for a
    target that is read, or too few images.
    """
    from matplotlib.figure import Figure

    refuse_overwriting(target, questions, images_folder)
    asked: dict[int, list[str]] = {}
    for record in read_questions(questions).questions:
        answer = "" if record.answer is None else f" {record.answer}"
        asked.setdefault(record.image_index or 0, []).append(record.question + answer)
    paths = list_images(images_folder)[: rows * columns]
    if len(paths) < rows * columns:
        raise UserError(f"{images_folder}: has fewer than {rows * columns} images")
    figure = Figure(figsize=(3.6 * columns, 2.95 * rows), layout="constrained")
    for i, (axes, path) in enumerate(zip(figure.subplots(rows, columns).flat, paths, strict=True)):
        axes.imshow(load_image(path, size).transpose(1, 2, 0))
        texts = asked.get(i, [""])
        axes.set_xlabel(textwrap.fill(texts[i % len(texts)], 52), fontsize=8)
        axes.set(xticks=[], yticks=[])
    with atomic_write(target) as stream:
        figure.savefig(stream, format="png", dpi=100)


def draw_film(
    model: dict[str, Any], feature_shape: tuple[int, int, int], target: str | Path
) -> None:
    """The FiLM network of a model config as a PNG, every arrow with its shape (figure 3)."""
    from matplotlib.figure import Figure

    channels, blocks = model["channels"], model["num_blocks"]
    encoder, classifier = model["encoder"], model["classifier"]
    projection, hidden = classifier["projection_dim"], classifier["hidden_dims"][0]
    maps = "×".join(map(str, feature_shape))
    figure = Figure(figsize=(8.6, 4.8), layout="constrained")
    axes = figure.subplots()
    axes.set(xlim=(0, 8.6), ylim=(0, 4.8))
    axes.axis("off")

    def box(x: float, y: float, text: str, color: str) -> Any:
        style = {"boxstyle": "round,pad=0.45", "facecolor": color, "edgecolor": "0.4"}
        return axes.text(x, y, text, ha="center", va="center", fontsize=9, bbox=style)

    def arrow(start: Any, end: Any, text: str = "", dx: float = 0.08, dy: float = 0.0) -> None:
        (x0, y0), (x1, y1) = start.get_position(), end.get_position()
        ends = {"patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch()}
        props = {"arrowstyle": "-|>", "color": "0.4", "shrinkA": 0, "shrinkB": 0, **ends}
        axes.annotate("", (x1, y1), (x0, y0), arrowprops=props)
        axes.text((x0 + x1) / 2 + dx, (y0 + y1) / 2 + dy, text, fontsize=8, color="0.3")

    language, vision, film = "#dbe9f6", "#e8f0d8", "#fbe3c0"
    question = box(1.2, 4.5, "question tokens", "white")
    embedding = box(1.2, 3.7, f"embedding {encoder['embedding_dim']}", language)
    reader = box(
        1.2, 2.8, f"{encoder['cell'].upper()} {encoder['hidden_dim']}\nat the true end", language
    )
    generator = box(1.2, 1.9, f"linear to {blocks}×2×{channels}", film)
    features = box(5.2, 4.5, f"image features {maps}", "white")
    stem = box(5.2, 3.7, "3×3 convolution, batch norm, ReLU", vision)
    block = box(5.2, 1.9, "1×1 convolution, ReLU\n3×3 convolution\nbatch norm without affine\n"
                "FiLM:  γ · x + β\nReLU, plus the first ReLU's output", vision)  # fmt: skip
    axes.text(6.5, 1.83, f"× {blocks}", fontsize=14, color="0.3")
    head = box(4.3, 0.4, f"1×1 convolution to {projection}, batch norm, ReLU, global "
               f"max pool\n{hidden} units, batch norm, ReLU", vision)  # fmt: skip
    answer = box(8.0, 0.4, "answer", "white")
    for start, end in ((question, embedding), (embedding, reader), (reader, generator)):
        arrow(start, end)
    arrow(generator, block, "γ = 1 + Δγ,  β", dx=-0.75, dy=0.1)
    arrow(features, stem)
    arrow(stem, block, f"{channels}×{feature_shape[1]}×{feature_shape[2]}", dy=0.3)
    arrow(block, head, dx=0.4)
    arrow(head, answer)
    axes.text(6.4, 4.05, "coordinate maps join every\n1×1 convolution and the stem", fontsize=8,
              color="0.3")  # fmt: skip
    with atomic_write(target) as stream:
        figure.savefig(stream, format="png", dpi=120)
