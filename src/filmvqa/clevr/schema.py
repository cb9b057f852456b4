"""Typed records of CLEVR v1.0's JSON files (Johnson et al., CVPR 2017).

The fields are those of the release, so code for CLEVR reads generated files, and this module reads
CLEVR's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import msgspec

from filmvqa.errors import UserError
from filmvqa.files import read_bytes

SHAPES = ("cube", "sphere", "cylinder")
COLORS = ("gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow")
MATERIALS = ("rubber", "metal")
SIZES = ("small", "large")
RELATIONS = ("left", "right", "behind", "front")
#: Values of each attribute, in the order of the side inputs of CLEVR's composite filters.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "size": SIZES,
    "color": COLORS,
    "material": MATERIALS,
    "shape": SHAPES,
}
Vector = tuple[float, float, float]


class Info(msgspec.Struct, omit_defaults=True):
    """The ``info`` record of a CLEVR file."""

    split: str
    license: str = ""
    version: str = ""
    date: str = ""


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


def _check_filename(name: str) -> None:
    """Raise ``ValueError`` if an image's name is not a plain file name, but a path to elsewhere.

    msgspec reports the error with its position in the JSON file.
    """
    if not name or name.startswith(".") or any(c in name for c in "/\\\0"):
        raise ValueError(f"image_filename {name!r} is not a plain file name")


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
        _check_filename(self.image_filename)
        count = len(self.objects)
        for relation in RELATIONS:
            rows = self.relationships.get(relation, [])
            if len(rows) != count or any(not 0 <= j < count for row in rows for j in row):
                raise ValueError(f"relationships {relation!r} do not fit {count} objects")


class SceneFile(msgspec.Struct):
    info: Info
    scenes: list[Scene]


class Function(msgspec.Struct):
    """One step of a functional program; ``inputs`` are indices of earlier steps."""

    function: str
    inputs: list[int]
    value_inputs: list[str] = []


class Question(msgspec.Struct, omit_defaults=True):
    """One question about an image.

    Questions of CLEVR's test split have no answer, program and family; those of CLEVR-Humans have
    no program.
    """

    image_filename: str
    question: str
    image_index: int | None = None
    split: str | None = None
    question_index: int | None = None
    question_family_index: int | None = None
    answer: str | None = None
    program: list[Function] | None = None

    def __post_init__(self) -> None:
        _check_filename(self.image_filename)


class QuestionFile(msgspec.Struct):
    questions: list[Question]
    info: Info | None = None


T = TypeVar("T")
#: Remedies for a missing and for a broken JSON file of a set.
FETCH = "download it (scripts/download_clevr.py) or generate it (scripts/generate_clevr.py)"
FETCH_AGAIN = "fetch or generate it again"


def decode_json(content: bytes, record_type: type[T], name: str | Path, remedy: str) -> T:
    """Decode JSON bytes into typed records.

    ``name`` and ``remedy`` are the beginning and the end of the error message.

    Raises
    ------
    UserError
        If the JSON is malformed or does not match the type; the message gives the position.
    """
    try:
        return msgspec.json.decode(content, type=record_type)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: {error}; {remedy}") from None


def read_scenes(path: str | Path) -> SceneFile:
    """Read a CLEVR scene file; raises ``UserError`` if it is missing or damaged."""
    return decode_json(read_bytes(path, FETCH), SceneFile, path, FETCH_AGAIN)


def read_questions(path: str | Path) -> QuestionFile:
    """Read a CLEVR question file; raises ``UserError`` if it is missing or damaged."""
    return decode_json(read_bytes(path, FETCH), QuestionFile, path, FETCH_AGAIN)


def encode_json(record: Any) -> bytes:
    """Encode a record as compact JSON."""
    return msgspec.json.encode(record)
