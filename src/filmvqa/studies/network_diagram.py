"""A diagram of the network."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

from filmvqa.system.figures import draw_figure

_LANGUAGE, _GENERATOR, _VISION = "#dbe9f6", "#fbe3c0", "#e8f0d8"


def draw_film(
    model: dict[str, Any], feature_shape: tuple[int, int, int], target: str | Path
) -> None:
    """Draw the FiLM network of a model config as a PNG, as in the paper's figure 3.

    ``model`` has options of ``FilmNet``; ``feature_shape`` is (C, H, W).
    """
    from filmvqa.models.film_net import FilmNet
    from filmvqa.models.options import with_defaults

    model = with_defaults(FilmNet, model)
    encoder, classifier = model["encoder"], model["classifier"]
    channels, num_blocks = model["channels"], model["num_blocks"]
    units = [f"\n{dim} units, batch norm, ReLU" for dim in classifier["hidden_dims"][:3]]
    with draw_figure(target, 8.6, 4.8) as figure:
        axes = figure.subplots()
        axes.set(xlim=(0, 8.6), ylim=(0, 4.8))
        axes.axis("off")
        generator = _draw_chain(
            axes,
            (1.2, 4.5, "question tokens", "white"),
            (1.2, 3.7, f"embedding {encoder['embedding_dim']}", _LANGUAGE),
            (1.2, 2.8, f"{encoder['cell'].upper()} {encoder['hidden_dim']}\nat the true end",
             _LANGUAGE),
            (1.2, 1.9, f"linear to {num_blocks}×2×{channels}", _GENERATOR),
        )  # fmt: skip
        stem = _draw_chain(
            axes,
            (5.2, 4.5, f"image features {'×'.join(map(str, feature_shape))}", "white"),
            (5.2, 3.7, "3×3 convolution, batch norm, ReLU", _VISION),
        )
        block = _draw_box(
            axes, 5.2, 1.9,
            "1×1 convolution, ReLU\n3×3 convolution\nbatch norm without affine\n"
            "FiLM:  γ · x + β\nReLU, plus the first ReLU's output",
            _VISION,
        )  # fmt: skip
        head = _draw_box(
            axes, 4.3, 0.4,
            f"1×1 convolution to {classifier['projection_dim']}, batch norm, ReLU, global max pool"
            + "".join(units),
            _VISION,
        )  # fmt: skip
        answer = _draw_box(axes, 8.0, 0.4, "answer", "white")
        axes.text(6.5, 1.83, f"× {num_blocks}", fontsize=14, color="0.3")
        coordinates = "coordinate maps join every\n1×1 convolution and the stem"
        axes.text(6.4, 4.05, coordinates, fontsize=8, color="0.3")
        _, height, width = feature_shape
        _draw_arrow(axes, stem, block, f"{channels}×{height}×{width}", dy=0.3)
        _draw_arrow(axes, block, head)
        _draw_arrow(axes, head, answer)
        _draw_arrow(axes, generator, block, "γ = 1 + Δγ,  β", dx=-0.75, dy=0.1)


def _draw_chain(axes: Any, *boxes: tuple[float, float, str, str]) -> Any:
    """Draw boxes with an arrow from each to the next; return the last box."""
    drawn = [_draw_box(axes, *box) for box in boxes]
    for start, end in pairwise(drawn):
        _draw_arrow(axes, start, end)
    return drawn[-1]


def _draw_box(axes: Any, x: float, y: float, text: str, color: str) -> Any:
    """Draw text in a rounded box centred at (x, y)."""
    style = {"boxstyle": "round,pad=0.45", "facecolor": color, "edgecolor": "0.4"}
    return axes.text(x, y, text, ha="center", va="center", fontsize=9, bbox=style)


def _draw_arrow(
    axes: Any, start: Any, end: Any, text: str = "", *, dx: float = 0.08, dy: float = 0.0
) -> None:
    """Draw an arrow between two boxes; its text is shifted by (dx, dy) from the middle."""
    (x0, y0), (x1, y1) = start.get_position(), end.get_position()
    style = {
        "arrowstyle": "-|>", "color": "0.4", "shrinkA": 0, "shrinkB": 0,
        "patchA": start.get_bbox_patch(), "patchB": end.get_bbox_patch(),
    }  # fmt: skip
    axes.annotate("", (x1, y1), (x0, y0), arrowprops=style)
    axes.text((x0 + x1) / 2 + dx, (y0 + y1) / 2 + dy, text, fontsize=8, color="0.3")
