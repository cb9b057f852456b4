"""The figures of an inspection. A figure that cannot be drawn is left out with a warning."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from filmvqa.features.images import read_picture
from filmvqa.studies.inspection.tables import Table
from filmvqa.system.figures import (
    add_legend,
    add_pictures,
    add_plots,
    draw_figure,
    draw_intervals,
    write_below,
)
from filmvqa.system.side_output import going_on_without

_WIDTH = 9.0
_DPI = 110

_beside_the_numbers = going_on_without("a figure of the inspection")


@_beside_the_numbers
def draw_histograms(histograms: dict[str, Table], target: Path) -> None:
    """Draw the distributions of γ and β by layer, side by side; 1 and 0 are marked."""
    with draw_figure(target, _WIDTH, 3.6, _DPI) as figure:
        grid = add_plots(figure, 1, 2)
        for axes, name, symbol, neutral in zip(grid, histograms, "γβ", (1, 0), strict=True):
            table = histograms[name]
            columns = list(zip(*table.rows, strict=True))
            for label, density in zip(table.header[1:], columns[1:], strict=True):
                axes.plot(columns[0], density, label=label.replace("_", " "))
            axes.axvline(neutral, color="0.5", linestyle=":")
            axes.set(xlabel=symbol, ylabel="density", yscale="log")
        grid[1].legend(fontsize="small")


@_beside_the_numbers
def draw_points(
    points: dict[str, NDArray[np.float32]], labels: Sequence[str], target: Path
) -> None:
    """Draw a t-SNE of γ and β for each layer, colored by the last function."""
    functions = np.array(labels)
    with draw_figure(target, _WIDTH, 5.2, _DPI) as figure:
        grid = add_pictures(figure, len(points), len(points))
        for axes, (title, xy) in zip(grid, points.items(), strict=True):
            for i, name in enumerate(sorted(set(labels))):
                look: dict[str, Any] = {"color": f"C{i % 10}", "marker": "o^s"[i // 10]}
                axes.scatter(*xy[functions == name].T, s=4, label=name, **look)
            axes.set_title(title)
        place = {"loc": "outside lower center", "markerscale": 3, "fontsize": "small"}
        add_legend(figure, 5, grid[-1].get_legend_handles_labels(), **place)


@_beside_the_numbers
def draw_groups(tables: Sequence[Table], target: Path) -> None:
    """Draw accuracy with 95% intervals, with a panel for each grouping."""
    rows = -(-len(tables) // 2)
    with draw_figure(target, _WIDTH, 3.2 * rows, _DPI) as figure:
        grid = add_plots(figure, rows, 2)
        for axes, table in zip(grid, tables, strict=False):
            labels = [str(row[0]) for row in table.rows]
            shares, *bounds = 100 * np.array([row[1:4] for row in table.rows]).T
            x = np.arange(len(labels))
            draw_intervals(axes, x, shares, np.stack(bounds), fmt="o", markersize=4, capsize=2)
            turned = max(map(len, labels)) > 3 and len(labels) > 8
            axes.set_xticks(x, labels, rotation=90 if turned else 0, fontsize="small")
            axes.set(xlabel=table.header[0], ylabel="accuracy (%)")
        for axes in grid[len(tables) :]:
            axes.set_axis_off()


@_beside_the_numbers
def draw_confusion(table: Table, target: Path) -> None:
    """Draw the shares of answers by true answer."""
    names = table.header[1:-1]
    shares = np.array([row[1:-1] for row in table.rows], float)
    side = 2.2 + 0.22 * len(names)
    with draw_figure(target, side + 0.9, side, _DPI) as figure:
        axes = figure.subplots()
        image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
        axes.set_xticks(range(len(names)), names, rotation=90, fontsize="small")
        axes.set_yticks(range(len(names)), [row[0] for row in table.rows], fontsize="small")
        axes.set(xlabel="answer", ylabel="truth")
        figure.colorbar(image, label="% of the questions with this truth", shrink=0.7)


@_beside_the_numbers
def draw_robustness(table: Table, target: Path) -> None:
    """Draw accuracy against noise added to γ and β, by layer; crosses are for the means."""
    plain = 100 * table.rows[0][3]
    with draw_figure(target, _WIDTH, 3.8, _DPI) as figure:
        grid = add_plots(figure, 1, 2, sharey=True)
        for axes, parameter, symbol in zip(grid, ("gamma", "beta"), "γβ", strict=True):
            by_layer: dict[str, dict[str, float]] = {}
            for name, layer, change, accuracy in table.rows:
                if name == parameter:
                    by_layer.setdefault(layer, {})[change] = 100 * accuracy
            for i, (layer, accuracies) in enumerate(by_layer.items()):
                color = "k" if layer == "all" else f"C{i - 1}"
                label = "all layers" if layer == "all" else f"layer {layer}"
                mean = accuracies.pop("mean")
                noise = [0.0, *(float(change.split()[1]) for change in accuracies)]
                curve = [plain, *accuracies.values()]
                axes.plot(noise, curve, "o-", color=color, markersize=3, label=label)
                axes.plot(-0.12, mean, "x", color=color)
            axes.set_xlabel(
                f"noise added to {symbol} (standard deviation); ×: {symbol} is its mean"
            )
        grid[0].set_ylabel("accuracy (%)")
        add_legend(figure, 7, grid[0].get_legend_handles_labels())


@_beside_the_numbers
def draw_line(table: Table, target: Path, xlabel: str) -> None:
    """Draw accuracy against a number."""
    with draw_figure(target, 5.5, 3.2, _DPI) as figure:
        (axes,) = add_plots(figure)
        axes.plot([row[0] for row in table.rows], [100 * row[1] for row in table.rows], "o-")
        axes.set(xlabel=xlabel, ylabel="accuracy (%)")


@_beside_the_numbers
def draw_activations(before: Sequence[Tensor], after: Sequence[Tensor], target: Path) -> None:
    """Draw histograms of the values before and after each FiLM layer."""
    with draw_figure(target, _WIDTH, 3.0, _DPI) as figure:
        grid = add_plots(figure, 1, 2, sharey=True)
        for axes, maps, place in zip(grid, (before, after), ("before", "after"), strict=True):
            for i, values in enumerate(maps):
                flat = values.float().flatten().numpy()
                low, high = np.quantile(flat, [0.001, 0.999])
                counts, edges = np.histogram(flat, 80, (low, high), density=True)
                axes.plot((edges[:-1] + edges[1:]) / 2, counts, label=f"layer {i + 1}")
            axes.axvline(0, color="0.5", linestyle=":")
            axes.set(xlabel=f"activation {place} FiLM", yscale="log")
        grid[0].set_ylabel("density")
        grid[1].legend(fontsize="small")


@_beside_the_numbers
def draw_places(
    pictures: Sequence[Path | None], places: Tensor, captions: Sequence[str], target: Path
) -> None:
    """Draw the sources (B, H, W) of the global max pool's values over the pictures."""
    with draw_figure(target, _WIDTH, 2.7 * -(-len(pictures) // 4), _DPI) as figure:
        grid = add_pictures(figure, len(pictures), 4)
        for axes, picture, share, caption in zip(grid, pictures, places, captions, strict=True):
            _draw_share(axes, picture, share)
            write_below(axes, caption, width=34, size=7)


@_beside_the_numbers
def draw_attention(
    pictures: Sequence[Path | None],
    places: Tensor,
    captions: Sequence[Sequence[str]],
    titles: Sequence[str],
    target: Path,
) -> None:
    """Draw attention to places (B, S, H, W) by step over the pictures.

    Each question has a row or several, with a title above and a caption below each step.
    """
    steps = places.shape[1]
    columns = min(steps, 6)
    lines = -(-steps // columns)
    height = len(pictures) * (0.35 + lines * (0.35 + 0.75 * _WIDTH / columns))
    with draw_figure(target, _WIDTH, height, _DPI) as figure:
        parts = figure.subfigures(len(pictures), 1, squeeze=False)[:, 0]
        for part, picture, shares, texts, title in zip(
            parts, pictures, places, captions, titles, strict=True
        ):
            part.suptitle(title, fontsize=9)
            grid = add_pictures(part, steps, columns)
            for axes, share, text in zip(grid, shares, texts, strict=True):
                _draw_share(axes, picture, share)
                axes.set_xlabel(text, fontsize=7)


def _draw_share(axes: Any, picture: Path | None, share: Tensor) -> None:
    """Draw shares of places (H, W) in yellow over a picture; larger shares are less transparent."""
    extent = (0.0, 1.0, 0.0, 1.0)
    if picture is not None:
        axes.imshow(read_picture(picture), extent=extent, aspect="auto")
    strength = np.sqrt(share.numpy() / max(float(share.max()), 1e-6))
    color = np.ones((*strength.shape, 4)) * (1.0, 0.9, 0.1, 1.0)
    color[..., 3] = 0.75 * strength
    axes.imshow(color, extent=extent, aspect="auto", interpolation="nearest")


@_beside_the_numbers
def draw_pictures(pictures: Sequence[Path | None], captions: Sequence[str], target: Path) -> None:
    """Draw pictures with captions."""
    rows = max(1, -(-len(pictures) // 8))
    with draw_figure(target, 1.9 * 8, 2.05 * rows, dpi=130) as figure:
        grid = add_pictures(figure, len(pictures), 8)
        for axes, picture, caption in zip(grid, pictures, captions, strict=True):
            if picture is not None:
                axes.imshow(read_picture(picture))
            write_below(axes, caption, width=36, size=5.5)
