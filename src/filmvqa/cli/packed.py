"""The folders ``configs/`` and ``scripts/``, which a wheel holds inside the package."""

from __future__ import annotations

from pathlib import Path

import filmvqa


def packed_folder(name: str) -> Path:
    """The folder ``name``: in the package if a wheel is installed, else in the repository."""
    package = Path(filmvqa.__file__).resolve().parent
    packed = package / name
    return packed if packed.is_dir() else package.parent.parent / name
