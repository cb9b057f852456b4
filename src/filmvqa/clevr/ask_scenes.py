"""Questions about the scenes of a file: CLEVR's, another generator's, or one's own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import numpy as np
from tqdm import tqdm

from filmvqa.clevr.scene_file import Color, Material, Scene, SceneObject, Shape, Size, Vector
from filmvqa.clevr.scene_rules import SceneRules
from filmvqa.clevr.scenes import compute_relationships
from filmvqa.errors import UserError
from filmvqa.files import read_bytes, refuse_overwriting
from filmvqa.layout import image_number
from filmvqa.worlds.families import read_families
from filmvqa.worlds.merge import write_array
from filmvqa.worlds.questions import IMAGES_PER_SHARD, ask_shard
from filmvqa.worlds.schema import CORRECT, FETCH, FETCH_AGAIN, Info, Question, decode_json
from filmvqa.worlds.worker_pool import worker_pool


class _ObjectRecord(msgspec.Struct):
    size: Size
    color: Color
    material: Material
    shape: Shape
    coords: Vector | None = msgspec.field(name="3d_coords", default=None)


class _SceneRecord(msgspec.Struct):
    """What questions need to know of a scene; other keys are ignored."""

    image_filename: str
    objects: list[_ObjectRecord]
    image_index: int | None = None
    split: str | None = None
    relationships: dict[str, list[list[int]]] | None = None
    directions: dict[str, Vector] | None = None

    def to_scene(self) -> Scene:
        """The scene, with relationships computed from positions where it has none.

        Raises
        ------
        ValueError
            If it has neither, or no index.
        """
        index = self.image_index
        if index is None:
            index = image_number(self.image_filename)
        if index is None:
            raise ValueError("no image_index, and no number in image_filename")
        relationships = self.relationships
        if relationships is None:
            centres = [o.coords for o in self.objects if o.coords is not None]
            if self.directions is None or len(centres) < len(self.objects):
                raise ValueError(
                    "neither relationships nor directions and the 3d_coords of all objects"
                )
            directions = {name: np.array(vector) for name, vector in self.directions.items()}
            try:
                relationships = compute_relationships(
                    np.array(centres).reshape(-1, 3), directions, SceneRules.relation_margin
                )
            except KeyError as error:
                raise ValueError(f"no direction {error}") from None
        return Scene(
            image_index=index,
            image_filename=self.image_filename,
            split=self.split or "",
            objects=[
                SceneObject(o.color, o.size, 0.0, o.shape, o.material, (0, 0, 0), (0, 0, 0))
                for o in self.objects
            ],
            relationships=relationships,
            directions={},
        )


class _SceneFile(msgspec.Struct):
    scenes: list[msgspec.Raw]
    info: Info | None = None


def ask_scenes(
    scenes: str | Path,
    output: str | Path,
    *,
    templates: str | Path | None = None,
    families: list[str | int] | None = None,
    questions_per_image: int = 10,
    seed: int = 0,
    workers: int = 1,
) -> int:
    """Write questions about the scenes of a file in CLEVR's format.

    Scenes of this package's generator get the questions that ``generate`` asked with the same
    settings, answers of all included.

    Parameters
    ----------
    scenes
        Scene JSON. Scenes need ``objects`` with CLEVR's attributes, ``image_filename``, and
        ``relationships`` or else ``directions`` and each object's ``3d_coords``.
    output
        Question JSON, which must not exist.
    templates, families, questions_per_image, seed
        As in ``GeneratorSettings``.
    workers
        Number of processes; it changes no byte.

    Returns
    -------
    int
        Number of questions.

    Raises
    ------
    UserError
        For a scene that cannot be asked about, named by its number, or an existing output.
    """
    scenes, output = Path(scenes), Path(output)
    refuse_overwriting(output, scenes)
    if output.exists():
        raise UserError(f"{output}: exists already; choose another output")
    read_families(templates, families)  # report invalid templates at once
    file = decode_json(read_bytes(scenes, FETCH), _SceneFile, scenes, FETCH_AGAIN)
    if not file.scenes:
        raise UserError(f"{scenes}: no scenes in it")
    records = [bytes(raw) for raw in file.scenes]
    shards = [
        (records[first : first + IMAGES_PER_SHARD], first, scenes, templates, families,
         questions_per_image, seed)
        for first in range(0, len(records), IMAGES_PER_SHARD)
    ]  # fmt: skip
    count = 0

    def numbered() -> Iterator[Question]:
        nonlocal count
        with worker_pool(workers) as pool:
            asked = pool.map(_ask_records, *zip(*shards, strict=True))
            for questions in tqdm(asked, total=len(shards), desc="questions", unit="shard"):
                for question in questions:
                    question.question_index = count
                    count += 1
                    yield question

    write_array(output, file.info or Info(split=""), "questions", numbered())
    return count


def _ask_records(
    records: list[bytes],
    first: int,
    path: Path,
    templates: str | Path | None,
    families: list[str | int] | None,
    per_image: int,
    seed: int,
) -> list[Question]:
    """The questions of one shard; record 0 is scene number ``first`` of the file."""
    decode = msgspec.json.Decoder(_SceneRecord).decode
    scenes = []
    for number, record in enumerate(records, first):
        try:
            scenes.append(decode(record).to_scene())
        except (msgspec.ValidationError, ValueError) as error:
            raise UserError(f"{path}: scene {number}: {error}; {CORRECT}") from None
    name = f"{seed}/{scenes[0].split}/{first // IMAGES_PER_SHARD}"
    return ask_shard(scenes, read_families(templates, families), per_image, name)
