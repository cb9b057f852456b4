"""Scenes of any world, decoded from JSON."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, Literal

import msgspec

from filmvqa.system.layout import image_number
from filmvqa.worlds.engine.schema import Info, check_filename, check_relationships
from filmvqa.worlds.engine.world import World

#: Computes the relationships of a decoded JSON scene; ``ValueError`` if it lacks what that takes.
Relate = Callable[[dict[str, Any]], dict[str, list[list[int]]]]
#: The registered functions by the name of their world.
RELATE: dict[str, Relate] = {}


def register_relate(world: str) -> Callable[[Relate], Relate]:
    """Register a function that computes the relationships of a world's scenes (decorator)."""

    def register(relate: Relate) -> Relate:
        RELATE[world] = relate
        return relate

    return register


class SceneFile(msgspec.Struct):
    """A file of scenes; ``decode_scene`` decodes each of them."""

    scenes: list[msgspec.Raw]
    info: Info | None = None


class _Scene(msgspec.Struct, kw_only=True):
    """A scene without its objects; other keys are ignored. ``decode_scene`` fills in missing
    values."""

    image_filename: str
    image_index: int | None = None
    split: str | None = None
    relationships: dict[str, list[list[int]]] | None = None


def decode_scene(content: bytes | msgspec.Raw, world: World, relate: Relate | None = None) -> Any:
    """Decode a scene of a world from JSON to a ``SceneRecord``.

    Its objects have the world's attributes and ``pixel_coords``; these are None if the JSON has
    none.

    Raises
    ------
    ValueError
        If it is not a scene of this world, if it has no image index, or if it has no relationships
        and ``relate`` cannot compute them.
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
    """``_Scene`` with objects that have a value of each attribute."""
    fields: list[Any] = [(name, Literal[values]) for name, values in attributes]
    record = msgspec.defstruct("_Object", [*fields, ("pixel_coords", list[float] | None, None)])
    objects: tuple[str, Any] = ("objects", list[record])  # type: ignore[valid-type]
    return msgspec.defstruct("_SceneOfWorld", [objects], bases=(_Scene,), kw_only=True)
