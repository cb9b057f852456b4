"""The settings of a generated set, and their record in the set's folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from filmvqa.clevr.layout import SetFolder
from filmvqa.clevr.scenes import SceneRules
from filmvqa.clevr.schema import decode_json, encode_json
from filmvqa.errors import UserError
from filmvqa.files import read_bytes, write_file

REMEDY = "delete it and run generate_clevr.py again"


@dataclass(frozen=True)
class GeneratorSettings:
    """All that a generated set depends on.

    ``images`` gives the number of images of each split (0: none); ``families`` the groups and
    numbers of question families (None: all); ``withhold`` the splits whose questions come without
    answers, as CLEVR's test split; ``date`` goes into the files' heads, fixed so that the same
    settings give the same bytes.
    """

    images: dict[str, int]
    width: int = 480
    height: int = 320
    rays: int = 2
    seed: int = 0
    questions_per_image: int = 10
    families: list[str | int] | None = None
    templates: str | None = None
    withhold: tuple[str, ...] = ("test",)
    masks: bool = False
    date: str = "2026-11-23"
    rules: SceneRules = field(default_factory=SceneRules)

    def __post_init__(self) -> None:
        for split, count in self.images.items():
            if not split.isidentifier() or count < 0:
                raise UserError(f"images.{split}={count}; need a plain name and 0 or more images")
            if count:
                self.rules.for_split(split)
        if min(self.width, self.height) < 16 or not 1 <= self.rays <= 16:
            raise UserError(
                f"images of {self.width}×{self.height} with rays={self.rays}; "
                "use at least 16×16 and 1 to 16 rays a side"
            )


def record_settings(folder: SetFolder, settings: GeneratorSettings) -> None:
    """Record the settings in the folder, or compare them with those recorded.

    Raises
    ------
    UserError
        If they differ, or the folder holds a set that was not generated.
    """
    wanted = msgspec.to_builtins(settings)
    if folder.settings.exists():
        recorded = decode_json(
            read_bytes(folder.settings, REMEDY), dict[str, Any], folder.settings, REMEDY
        )
        wanted = msgspec.json.decode(msgspec.json.encode(wanted))
        if recorded != wanted:
            changed = _differences(recorded, wanted)
            raise UserError(
                f"{folder.root}: holds a set made with other settings ({'; '.join(changed)}); "
                "give the same ones, another folder, or delete it"
            )
        return
    if (folder.root / "questions").exists():
        raise UserError(
            f"{folder.root}: holds questions that were not generated here; choose another folder"
        )
    write_file(folder.settings, msgspec.json.format(encode_json(wanted), indent=1) + b"\n")


def _differences(found: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    changes: list[str] = []
    for key in sorted(found.keys() | wanted.keys()):
        a, b = found.get(key), wanted.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            changes += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            changes.append(f"{prefix}{key} was {a}, now {b}")
    return changes
