"""Typed scenes, programs and questions, read and written as CLEVR v1.0's JSON.

Field for field the release's files (Johnson et al., CVPR 2017), so that what is generated
here loads wherever CLEVR does and CLEVR loads here.
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
#: Attribute names in the order in which CLEVR's composite filters list them.
ATTRIBUTES: dict[str, tuple[str, ...]] = {
    "size": SIZES,
    "color": COLORS,
    "material": MATERIALS,
    "shape": SHAPES,
}
Vector = tuple[float, float, float]


class Info(msgspec.Struct, omit_defaults=True):
    """Head of every CLEVR file."""

    split: str
    license: str = ""
    version: str = ""
    date: str = ""


class SceneObject(msgspec.Struct):
    """One object: ``coords`` (``3d_coords`` in the file) in world units, its centre;
    ``rotation`` in degrees about the vertical; ``pixel_coords`` x, y in pixels and depth."""

    color: str
    size: str
    rotation: float
    shape: str
    material: str
    coords: Vector = msgspec.field(name="3d_coords")
    pixel_coords: Vector


def _check_filename(name: str) -> None:
    """Raise ``ValueError`` (which msgspec reports with its place) for what is no plain name: a file
    must not lead out of its folder."""
    if not name or name.startswith(".") or any(c in name for c in "/\\\0"):
        raise ValueError(f"image_filename {name!r} is no plain file name")


class Scene(msgspec.Struct):
    """One image's objects. ``relationships[r][i]`` lists the objects that are ``r`` of object i."""

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
                raise ValueError(f"relationships {relation!r} are not those of {count} objects")


class SceneFile(msgspec.Struct):
    info: Info
    scenes: list[Scene]


class Function(msgspec.Struct):
    """One step of a functional program; ``inputs`` index earlier steps."""

    function: str
    inputs: list[int]
    value_inputs: list[str] = []


class Question(msgspec.Struct, omit_defaults=True):
    """One question. CLEVR's test split has neither answer nor program nor family;
    CLEVR-Humans has no program."""

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

    Raises
    ------
    UserError
        For malformed JSON or a record of another shape, with msgspec's account of the place.
    """
    try:
        return msgspec.json.decode(content, type=record_type)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{name}: {error}; {remedy}") from None


def read_scenes(path: str | Path) -> SceneFile:
    """Read a CLEVR scene file."""
    return decode_json(read_bytes(path, FETCH), SceneFile, path, FETCH_AGAIN)


def read_questions(path: str | Path) -> QuestionFile:
    """Read a CLEVR question file."""
    return decode_json(read_bytes(path, FETCH), QuestionFile, path, FETCH_AGAIN)


def encode_json(record: Any) -> bytes:
    """Compact JSON of a record."""
    return msgspec.json.encode(record)
