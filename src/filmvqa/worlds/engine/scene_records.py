"""Scenes of any world from JSON: what questions and targets need to know of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import msgspec

from filmvqa.system.layout import image_number
from filmvqa.worlds.engine.schema import Info, check_filename, check_relationships
from filmvqa.worlds.engine.world import World

#: The relationships of a scene, which is a record in JSON without them; ``ValueError`` if they
#: cannot be known.
Relate = Callable[[dict[str, Any]], dict[str, list[list[int]]]]
#: By the name of the scenes' world.
RELATE: dict[str, Relate] = {}


def register_relate(world: str) -> Callable[[Relate], Relate]:
    """A decorator for the function that gives relationships to a world's scenes without."""

    def register(relate: Relate) -> Relate:
        RELATE[world] = relate
        return relate

    return register


class SceneFile(msgspec.Struct):
    """A file of scenes, each of which ``decode_scene`` takes."""

    scenes: list[msgspec.Raw]
    info: Info | None = None


class _Scene(msgspec.Struct, kw_only=True):
    """A scene but for its objects; other keys are ignored. It is a ``SceneRecord`` once what was
    missing is filled in."""

    image_filename: str
    image_index: int | None = None
    split: str | None = None
    relationships: dict[str, list[list[int]]] | None = None


def decode_scene(content: bytes | msgspec.Raw, world: World, relate: Relate | None = None) -> Any:
    """A scene of the world, a ``SceneRecord``, from its JSON.

    Its objects have the world's attributes, and ``pixel_coords``, which are None where the JSON has
    none.

    Raises
    ------
    ValueError
        If it is no scene of this world, or has no index, or no relationships and ``relate`` does
        not know them.
    """
    scene = msgspec.json.decode(content, type=_scene_type(tuple(world.attributes.items())))
    check_filename(scene.image_filename)
    if scene.image_index is None:
        scene.image_index = image_number(scene.image_filename)
    if scene.image_index is None:
        raise ValueError("no image_index, and no number in image_filename")
    if scene.relationships is None:
        if relate is None:
            raise ValueError("no relationships")
        scene.relationships = relate(msgspec.json.decode(content))
    scene.split = scene.split or ""
    check_relationships(scene.relationships, len(scene.objects), world.relations)
    return scene


@cache
def _scene_type(attributes: tuple[tuple[str, tuple[str, ...]], ...]) -> type[Any]:
    """``_Scene`` with objects, which have a value of each of a world's attributes; kept by these
    and their values."""
    fields: list[Any] = [(name, Literal[values]) for name, values in attributes]
    thing = msgspec.defstruct("_Object", [*fields, ("pixel_coords", list[float] | None, None)])
    objects: tuple[str, Any] = ("objects", list[thing])  # type: ignore[valid-type]
    return msgspec.defstruct("_SceneOfWorld", [objects], bases=(_Scene,), kw_only=True)
