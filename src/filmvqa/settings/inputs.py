"""Input files named by settings: missing files are reported before slow imports."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filmvqa.settings.annotations import field_annotations
from filmvqa.settings.typed import Settings
from filmvqa.system.errors import UserError


@dataclass(frozen=True)
class Input:
    """A note on a field that names an input: ``Annotated[<type>, Input(...)]``.

    ``check`` is called with a value other than None and its key, and raises ``UserError`` if the
    input is missing.
    """

    check: Callable[[Any, str], object]


def check_inputs(settings: Settings) -> None:
    """Raise ``UserError`` if an input that settings or their groups name is missing."""
    for name, (_, notes) in field_annotations(type(settings)).items():
        value = getattr(settings, name)
        for note in notes:
            if isinstance(note, Input) and value is not None:
                note.check(value, settings.key_of(name))
        if isinstance(value, Settings):
            check_inputs(value)


def _existing(noun: str) -> Input:
    def check(path: str, key: str) -> None:
        if not Path(path).exists():
            raise UserError(f"{path}: no such {noun}; check the path that {key} gives")

    return Input(check)


FILE = _existing("file")
FOLDER = _existing("folder")
