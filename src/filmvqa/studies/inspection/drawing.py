"""The figures of an inspection."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from filmvqa.features.images import read_picture
from filmvqa.studies.inspection.tables import Table
from filmvqa.system.figure_file import new_figure, save_figure

_WIDTH = 9.0
_DPI = 110


def draw_histograms(gamma: Table, beta: Table, target: Path) -> None:
    """γ and β by layer, side by side; 1 and 0 are marked."""
    figure = new_figure(_WIDTH, 3.6)
    for axes, table, symbol, neutral in zip(
        figure.subplots(1, 2), (gamma, beta), ("γ", "β"), (1, 0), strict=True
    ):
        columns = list(zip(*table.rows, strict=True))
        for i, name in enumerate(table.header[1:], 1):
            axes.plot(columns[0], columns[i], label=name.replace("_", " "))
        axes.axvline(neutral, color="0.5", linestyle=":")
        axes.set(xlabel=symbol, ylabel="density", yscale="log")
        axes.grid(alpha=0.3)
    axes.legend(fontsize="small")
    save_figure(figure, target, _DPI)


def draw_points(
    points: dict[str, NDArray[np.float32]], labels: Sequence[str], target: Path
) -> None:
    """t-SNE of γ and β, coloured by the last function: one panel for each layer."""
    figure = new_figure(_WIDTH, 5.2)
    names = sorted(set(labels))
    for axes, (title, where) in zip(figure.subplots(1, len(points)), points.items(), strict=True):
        for i, name in enumerate(names):
            members = np.array([label == name for label in labels])
            axes.scatter(
                *where[members].T, s=4, color=f"C{i % 10}", marker="o^s"[i // 10], label=name
            )
        axes.set(xticks=[], yticks=[], title=title)
    handles, texts = axes.get_legend_handles_labels()
    figure.legend(
        handles, texts, loc="outside lower center", ncols=5, frameon=False, markerscale=3,
        fontsize="small",
    )  # fmt: skip
    save_figure(figure, target, _DPI)


def draw_groups(tables: Sequence[Table], target: Path) -> None:
    """Accuracy with 95% intervals by group, a panel for each grouping."""
    figure = new_figure(_WIDTH, 3.2 * -(-len(tables) // 2))
    grid = figure.subplots(-(-len(tables) // 2), 2, squeeze=False)
    for axes, table in zip(grid.flat, tables, strict=False):
        labels = [str(row[0]) for row in table.rows]
        shares = np.array([[100 * v for v in row[1:4]] for row in table.rows])
        where = np.arange(len(labels))
        errors = np.abs(shares[:, 1:].T - shares[:, 0])
        axes.errorbar(where, shares[:, 0], errors, fmt="o", markersize=4, capsize=2)
        turned = max(map(len, labels)) > 3 and len(labels) > 8
        axes.set_xticks(where, labels, rotation=90 if turned else 0, fontsize="small")
        axes.set(xlabel=table.header[0], ylabel="accuracy (%)")
        axes.grid(alpha=0.3)
    for axes in grid.flat[len(tables) :]:
        axes.set_axis_off()
    save_figure(figure, target, _DPI)


def draw_confusion(table: Table, target: Path) -> None:
    """Shares of given answers by true answer."""
    names = table.header[1:-1]
    shares = np.array([row[1:-1] for row in table.rows], float)
    side = 2.2 + 0.22 * len(names)
    figure = new_figure(side + 0.9, side)
    axes = figure.subplots()
    shown = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    axes.set_xticks(range(len(names)), names, rotation=90, fontsize="small")
    axes.set_yticks(range(len(names)), [row[0] for row in table.rows], fontsize="small")
    axes.set(xlabel="answer", ylabel="truth")
    figure.colorbar(shown, label="% of the questions with this truth", shrink=0.7)
    save_figure(figure, target, _DPI)


def draw_robustness(table: Table, target: Path) -> None:
    """Accuracy against the noise added to γ and β, by layer; crosses are the means."""
    plain = 100 * table.rows[0][3]
    figure = new_figure(_WIDTH, 3.8)
    grid = figure.subplots(1, 2, sharey=True)
    for axes, parameter, symbol in zip(grid, ("gamma", "beta"), "γβ", strict=True):
        layers = dict.fromkeys(row[1] for row in table.rows if row[0] == parameter)
        for i, layer in enumerate(layers):
            rows = [row for row in table.rows if row[:2] == [parameter, layer]]
            noise = [(float(r[2].split()[1]), 100 * r[3]) for r in rows if r[2] != "mean"]
            label = "all layers" if layer == "all" else f"layer {layer}"
            color = "k" if layer == "all" else f"C{i - 1}"
            axes.plot(*zip((0.0, plain), *noise, strict=True), "o-", color=color, markersize=3,
                      label=label)  # fmt: skip
            mean = next(100 * r[3] for r in rows if r[2] == "mean")
            axes.plot(-0.12, mean, "x", color=color)
        axes.set(xlabel=f"noise added to {symbol} (standard deviation); ×: {symbol} is its mean")
        axes.grid(alpha=0.3)
    grid[0].set_ylabel("accuracy (%)")
    handles, labels = grid[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=7, frameon=False)
    save_figure(figure, target, _DPI)


def draw_line(table: Table, target: Path, xlabel: str) -> None:
    """Accuracy against a number."""
    figure = new_figure(5.5, 3.2)
    axes = figure.subplots()
    axes.plot([row[0] for row in table.rows], [100 * row[1] for row in table.rows], "o-")
    axes.set(xlabel=xlabel, ylabel="accuracy (%)")
    axes.grid(alpha=0.3)
    save_figure(figure, target, _DPI)


def draw_activations(before: Sequence[Tensor], after: Sequence[Tensor], target: Path) -> None:
    """Histograms of the values before and after each FiLM layer."""
    figure = new_figure(_WIDTH, 3.0)
    grid = figure.subplots(1, 2, sharey=True)
    for axes, maps, title in zip(grid, (before, after), ("before FiLM", "after FiLM"), strict=True):
        for i, values in enumerate(maps):
            flat = values.float().flatten().numpy()
            low, high = np.quantile(flat, [0.001, 0.999])
            counts, edges = np.histogram(flat, 80, (low, high), density=True)
            axes.plot((edges[:-1] + edges[1:]) / 2, counts, label=f"layer {i + 1}")
        axes.axvline(0, color="0.5", linestyle=":")
        axes.set(xlabel=f"activation {title}", yscale="log")
        axes.grid(alpha=0.3)
    grid[0].set_ylabel("density")
    grid[1].legend(fontsize="small")
    save_figure(figure, target, _DPI)


def draw_places(
    pictures: Sequence[Path | None], places: Tensor, captions: Sequence[str], target: Path
) -> None:
    """Where the global maximum pool takes its values from, over the pictures (B, H, W)."""
    columns = 4
    rows = -(-len(pictures) // columns)
    figure = new_figure(_WIDTH, 2.7 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, picture, share, caption in zip(grid.flat, pictures, places, captions, strict=False):
        _draw_share(axes, picture, share)
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(textwrap.fill(caption, 34), fontsize=7)
    for axes in grid.flat[len(pictures) :]:
        axes.set_axis_off()
    save_figure(figure, target, _DPI)


def _draw_share(axes: Any, picture: Path | None, share: Tensor) -> None:
    """Shares of places (H, W) in yellow over a picture, the largest the least transparent."""
    extent = (0.0, 1.0, 0.0, 1.0)
    if picture is not None:
        axes.imshow(read_picture(picture), extent=extent, aspect="auto")
    strength = np.sqrt(share.numpy() / max(float(share.max()), 1e-6))
    color = np.ones((*strength.shape, 4)) * (1.0, 0.9, 0.1, 1.0)
    color[..., 3] = 0.75 * strength
    axes.imshow(color, extent=extent, aspect="auto", interpolation="nearest")


def draw_attention(
    pictures: Sequence[Path | None],
    places: Tensor,
    captions: Sequence[Sequence[str]],
    titles: Sequence[str],
    target: Path,
) -> None:
    """Attention to places (B, S, H, W) by step, over the pictures: a row, or several, for each
    question, with a title above and a caption below each step."""
    steps = places.shape[1]
    columns = min(steps, 6)
    lines = -(-steps // columns)
    figure = new_figure(_WIDTH, len(pictures) * (0.35 + lines * (0.35 + 0.75 * _WIDTH / columns)))
    parts = figure.subfigures(len(pictures), 1, squeeze=False)[:, 0]
    for part, picture, shares, texts, title in zip(
        parts, pictures, places, captions, titles, strict=True
    ):
        part.suptitle(title, fontsize=9)
        grid = part.subplots(lines, columns, squeeze=False)
        for axes, share, text in zip(grid.flat, shares, texts, strict=False):
            _draw_share(axes, picture, share)
            axes.set(xticks=[], yticks=[])
            axes.set_xlabel(text, fontsize=7)
        for axes in grid.flat[steps:]:
            axes.set_axis_off()
    save_figure(figure, target, _DPI)


def draw_pictures(
    pictures: Sequence[Path | None], captions: Sequence[str], target: Path, columns: int = 8
) -> None:
    """A sheet of pictures with captions."""
    rows = max(1, -(-len(pictures) // columns))
    figure = new_figure(1.9 * columns, 2.05 * rows)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat[len(pictures) :]:
        axes.set_axis_off()
    for axes, picture, caption in zip(grid.flat, pictures, captions, strict=False):
        if picture is not None:
            axes.imshow(read_picture(picture))
        axes.set(xticks=[], yticks=[])
        axes.set_xlabel(textwrap.fill(caption, 36), fontsize=5.5)
    save_figure(figure, target, dpi=130)
