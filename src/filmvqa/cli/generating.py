"""Shared by the scripts that generate sets and questions: a whole set, a part of it, or the merging
of parts; and the relationships in scenes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from filmvqa.cli.settings import GenerateSettings

if TYPE_CHECKING:
    from filmvqa.worlds.engine.generate import Maker
    from filmvqa.worlds.engine.scene_records import Relate


def generate_set(settings: GenerateSettings, set_settings: Any, maker: Maker) -> None:
    """Generate a set from its world's settings with the world's maker, and print the result."""
    from filmvqa.worlds.engine.generate import list_missing

    root, part, parts = settings.data.root, settings.part, settings.parts
    if settings.templates is not None:
        set_settings = replace(set_settings, templates=settings.templates)
    if parts is None:
        if maker.generate(root, set_settings, settings.workers):
            print(f"{root}: generated {set_settings.images} {maker.unit}")
        else:
            print(f"{root}: already complete")
    elif part is None:
        maker.merge_parts(root, set_settings, parts)
        print(f"{root}: merged {parts} parts")
    else:
        missing = maker.generate_part(root, set_settings, part, parts, settings.workers)
        state = list_missing(missing, parts) if missing else "the set is complete"
        print(f"{root}: part {part} of {parts} is made; {state}")


def relate_of(world: str) -> Relate | None:
    """A world's function that adds relationships to scenes without them; None if the world
    registers none."""
    import filmvqa.worlds.clevr.scenes
    import filmvqa.worlds.sound.scenes  # noqa: F401 both register a function
    from filmvqa.worlds.engine.scene_records import RELATE

    return RELATE.get(world)
