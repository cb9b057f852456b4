"""What the scripts that generate sets share: the whole set, one of its parts, or their merging."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from filmvqa.cli.settings import GenerateConfig


def generate_set(settings: GenerateConfig, own: Any, world: Any) -> None:
    """Generate a set, and print what was done.

    Parameters
    ----------
    own
        The settings of the world's sets.
    world
        The module that has ``generate``, ``generate_part`` and ``merge_parts`` for them.
    """
    from filmvqa.worlds.parts import Part, said_missing

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
