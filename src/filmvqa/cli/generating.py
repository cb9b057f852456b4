"""What the scripts that generate sets and questions share of the worlds: a whole set, one of its
parts, or their merging; and the relationships of scenes."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from filmvqa.cli.settings import GenerateConfig

if TYPE_CHECKING:
    from filmvqa.worlds.engine.ask_scenes import Relate


def generate_set(settings: GenerateConfig, own: Any, world: Any) -> None:
    """Generate a set, and print what was done.

    Parameters
    ----------
    own
        The settings of the world's sets.
    world
        The module that has ``generate``, ``generate_part`` and ``merge_parts`` for them.
    """
    from filmvqa.worlds.engine.parts import Part, said_missing

    root = settings.data.root
    if settings.templates is not None:
        own = replace(own, templates=settings.templates)
    unit = world.MAKER.unit
    if settings.parts is None:
        if world.generate(root, own, settings.workers):
            print(f"{root}: generated {own.images} {unit}")
        else:
            print(f"{root}: complete already")
    elif settings.part is None:
        world.merge_parts(root, own, settings.parts)
        print(f"{root}: merged {settings.parts} parts")
    else:
        part = Part(settings.part, settings.parts)
        missing = world.generate_part(root, own, part, settings.workers)
        state = said_missing(missing, part.count) if missing else "the set is complete"
        print(f"{root}: {part} is made; {state}")


def relate_of(world: str) -> Relate | None:
    """What gives relationships to a world's scenes without; None for a world of a file."""
    if world == "clevr":
        from filmvqa.worlds.clevr.scenes import relate
    elif world == "sound":
        from filmvqa.worlds.sound.scenes import relate
    else:
        return None
    return relate
