"""The folders ``configs/`` and ``scripts/``, which a wheel packs into the package."""

from __future__ import annotations

from pathlib import Path

import filmvqa


def packed_folder(name: str) -> Path:
    """The folder of that name: in the package where a wheel is installed, else in the checkout."""
    package = Path(filmvqa.__file__).resolve().parent
    packed = package / name
    return packed if packed.is_dir() else package.parent.parent / name
