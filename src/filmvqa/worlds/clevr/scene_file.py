"""CLEVR's attributes and scene files, as typed records (Johnson et al., CVPR 2017)."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import msgspec

from filmvqa.system.files import read_bytes
from filmvqa.worlds.engine.schema import (
    FETCH,
    FETCH_AGAIN,
    Info,
    check_filename,
    check_relationships,
    decode_json,
)
from filmvqa.worlds.engine.world import CLEVR

Shape = Literal["cube", "sphere", "cylinder"]
Color = Literal["gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"]
Material = Literal["rubber", "metal"]
Size = Literal["small", "large"]
SHAPES: tuple[Shape, ...] = get_args(Shape)
COLORS: tuple[Color, ...] = get_args(Color)
MATERIALS: tuple[Material, ...] = get_args(Material)
SIZES: tuple[Size, ...] = get_args(Size)
RELATIONS = CLEVR.relations
#: Values of each attribute, in the order of the side inputs of CLEVR's composite filters.
ATTRIBUTES = CLEVR.attributes
Vector = tuple[float, float, float]


class SceneObject(msgspec.Struct):
    """One object of a scene.

    Attributes
    ----------
    color, size, shape, material
        Attribute values.
    rotation
        Rotation about the vertical in degrees.
    coords
        Centre in world units (``3d_coords`` in the file).
    pixel_coords
        x and y in whole pixels (other generators may write fractions), and depth in world units.
    """

    color: str
    size: str
    rotation: float
    shape: str
    material: str
    coords: Vector = msgspec.field(name="3d_coords")
    pixel_coords: tuple[int | float, int | float, float]


class Scene(msgspec.Struct):
    """The objects of one image.

    ``relationships[r][i]`` lists the objects that are in relation r to object i: for "left", the
    objects left of object i.
    """

    image_index: int
    image_filename: str
    split: str
    objects: list[SceneObject]
    relationships: dict[str, list[list[int]]]
    directions: dict[str, Vector]

    def __post_init__(self) -> None:
        check_filename(self.image_filename)
        check_relationships(self.relationships, len(self.objects), RELATIONS)


class SceneFile(msgspec.Struct):
    info: Info
    scenes: list[Scene]


def read_scenes(path: str | Path) -> SceneFile:
    """Read a CLEVR scene file; ``UserError`` if it is missing or damaged."""
    return decode_json(read_bytes(path, FETCH), SceneFile, path, FETCH_AGAIN)
