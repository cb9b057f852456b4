"""Figures of Matplotlib, made and written the same way everywhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from filmvqa.system.files import atomic_write


def new_figure(width: float, height: float) -> Any:
    """An empty figure, in inches, whose parts are laid out without overlapping."""
    from matplotlib.figure import Figure  # takes half a second to import

    return Figure(figsize=(width, height), layout="constrained")


def save_figure(figure: Any, target: str | Path, dpi: int) -> None:
    """Write a figure as PNG; an existing file is replaced once the new one is complete."""
    with atomic_write(target) as stream:
        figure.savefig(stream, format="png", dpi=dpi)
