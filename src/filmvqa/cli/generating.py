"""What the scripts that generate sets and questions share of the worlds: a whole set, one of its
parts, or their merging; and the relationships of scenes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from filmvqa.cli.settings import GenerateSettings

if TYPE_CHECKING:
    from filmvqa.worlds.engine.generate import Maker
    from filmvqa.worlds.engine.scene_records import Relate


def generate_set(settings: GenerateSettings, own: Any, maker: Maker) -> None:
    """Generate a set, and print what was done.

    Parameters
    ----------
    own
        The settings of the world's sets.
    maker
        How they are made.
    """
    from filmvqa.worlds.engine.generate import list_missing

    root = settings.data.root
    if settings.templates is not None:
        own = replace(own, templates=settings.templates)
    if settings.parts is None:
        if maker.generate(root, own, settings.workers):
            print(f"{root}: generated {own.images} {maker.unit}")
        else:
            print(f"{root}: complete already")
    elif settings.part is None:
        maker.merge_parts(root, own, settings.parts)
        print(f"{root}: merged {settings.parts} parts")
    else:
        part, parts = settings.part, settings.parts
        missing = maker.generate_part(root, own, part, parts, settings.workers)
        state = list_missing(missing, parts) if missing else "the set is complete"
        print(f"{root}: part {part} of {parts} is made; {state}")


def relate_of(world: str) -> Relate | None:
    """What gives relationships to a world's scenes without; None for a world that registers no such
    function."""
    import filmvqa.worlds.clevr.scenes
    import filmvqa.worlds.sound.scenes  # noqa: F401 both register theirs
    from filmvqa.worlds.engine.scene_records import RELATE

    return RELATE.get(world)
