"""Matplotlib figures, opened, laid out and written the same way everywhere.

They are ``Figure`` objects without pyplot, with Matplotlib's default settings: neither a user's
``matplotlibrc`` nor a backend changes them.
"""

from __future__ import annotations

import logging
import os
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from filmvqa.system.errors import UserError, one_line
from filmvqa.system.files import atomic_write
from filmvqa.system.side_output import environment


@contextmanager
def draw_figure(target: str | Path, width: float, height: float, dpi: int = 120) -> Iterator[Any]:
    """An empty figure of ``width`` by ``height`` inches, in which nothing overlaps.

    At the end of the block the figure is written as PNG. A file at ``target`` is replaced only by a
    complete one.

    Raises
    ------
    UserError
        If Matplotlib cannot be imported, or cannot draw the figure.
    """
    log = logging.getLogger("matplotlib")
    level = log.level
    log.setLevel(logging.ERROR)  # no warnings of missing fonts and folders
    try:
        # A missing backend or broken settings would make the import fail.
        with environment(MPLBACKEND="agg", MATPLOTLIBRC=os.devnull):
            import matplotlib  # takes half a second
            from matplotlib.figure import Figure
        with matplotlib.rc_context(), warnings.catch_warnings(action="ignore"):
            matplotlib.rcdefaults()
            # Dollar signs are text, not mathematics.
            matplotlib.rcParams.update({"grid.alpha": 0.3, "text.parse_math": False})
            figure = Figure(figsize=(width, height), layout="constrained")
            yield figure
            _write_powers_plainly(figure)
            with atomic_write(target) as stream:
                figure.savefig(stream, format="png", dpi=dpi)
    except (UserError, OSError):
        raise
    except Exception as error:
        raise UserError(
            f"{target}: Matplotlib cannot draw it ({type(error).__name__}: {one_line(error)})"
        ) from error
    finally:
        log.setLevel(level)


def _write_powers_plainly(figure: Any) -> None:
    """Label logarithmic axes with 0.1 instead of mathematical text, which would not be parsed."""
    from matplotlib.ticker import FuncFormatter, LogFormatterMathtext, NullFormatter

    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if isinstance(axis.get_major_formatter(), LogFormatterMathtext):
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            if isinstance(axis.get_minor_formatter(), LogFormatterMathtext):
                axis.set_minor_formatter(NullFormatter())


def add_plots(figure: Any, rows: int = 1, columns: int = 1, **options: Any) -> list[Any]:
    """Axes with a faint grid, row by row; ``options`` go to ``subplots``."""
    grid = figure.subplots(rows, columns, squeeze=False, **options)
    for axes in grid.flat:
        axes.grid()
    return list(grid.flat)


def add_pictures(figure: Any, count: int, columns: int, *, ticks: bool = False) -> list[Any]:
    """Axes for ``count`` pictures, in rows of ``columns``, by default without ticks."""
    rows = max(1, -(-count // columns))
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes in grid.flat:
        if not ticks:
            axes.set(xticks=[], yticks=[])
    for axes in grid.flat[count:]:
        axes.set_axis_off()
    return list(grid.flat[:count])


def write_below(axes: Any, *texts: str, width: int, size: float) -> None:
    """Write texts below a picture, each wrapped at ``width`` characters."""
    axes.set_xlabel("\n".join(textwrap.fill(text, width) for text in texts), fontsize=size)


def add_legend(figure: Any, columns: int, entries: tuple[Any, ...] = (), **options: Any) -> None:
    """Add a legend above a figure, of ``entries`` (handles, texts) or of all that is labelled."""
    options = {"loc": "outside upper center", "frameon": False, **options}
    figure.legend(*entries, ncols=columns, **options)


def draw_intervals(
    axes: Any, x: ArrayLike, values: ArrayLike, bounds: NDArray[np.floating], **look: Any
) -> None:
    """Draw values (N,) with intervals from ``bounds[0]`` to ``bounds[1]``, (2, N)."""
    axes.errorbar(x, values, np.abs(bounds - np.asarray(values)), **look)


def outline(axes: Any, mask: NDArray[np.bool_], color: str = "yellow") -> None:
    """Draw the outline of a mask (H, W) over an image of its size; an empty mask has none."""
    if mask.any():
        axes.contour(mask, [0.5], colors=[color], linewidths=2)
