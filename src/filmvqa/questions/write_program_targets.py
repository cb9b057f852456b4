"""Write the objects that programs refer to, from questions, scenes and pictures."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from filmvqa.features.images import IMAGES, find_pictures
from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.program_targets import FORMAT, MAKE
from filmvqa.questions.question_table import MAX_OBJECTS, MISSING
from filmvqa.questions.vocabulary import SPECIAL_TOKENS, Vocabulary
from filmvqa.system.errors import UserError
from filmvqa.system.files import read_bytes, write_file
from filmvqa.system.hdf5 import HDF5_ERRORS, arrays_sha256, open_hdf5, unreadable
from filmvqa.system.hdf5_storage import read_array
from filmvqa.system.layout import DatasetLayout
from filmvqa.worlds.engine.programs import NotUniqueError, SceneIndex, Value
from filmvqa.worlds.engine.scene_records import SceneFile, decode_scene
from filmvqa.worlds.engine.schema import CORRECT, FETCH, FETCH_AGAIN, decode_json
from filmvqa.worlds.engine.world import CLEVR, World


class _StepResult(NamedTuple):
    """The output of a step, and all referents and sets up to it."""

    output: Value
    referents: list[int]
    sets: list[int]


def named_objects(
    steps: Sequence[tuple[str, str | None]], scene: SceneIndex
) -> tuple[list[int], list[int]]:
    """Execute a program, and return its referents and its sets.

    ``steps`` are pairs of function and value in prefix order. A program with a function that the
    world does not have has neither referents nor sets.

    Raises
    ------
    NotUniqueError
        If the program does not fit the scene.
    """
    pending: list[_StepResult] = []
    for function, value in reversed(steps):
        if function not in scene.world.functions:
            return [], []
        types, output_type = scene.world.signature(function)
        inputs = [pending.pop() for _ in types]
        output = scene.apply(function, [step.output for step in inputs], value)
        referents = [i for step in inputs for i in step.referents]
        sets = [objects for step in inputs for objects in step.sets]
        if output_type == "object":
            referents.append(int(output))
        elif types == ("set",) and output_type in ("number", "boolean"):
            sets.append(int(inputs[0].output))
        pending.append(_StepResult(output, referents, sets))
    return (pending[0].referents, pending[0].sets) if pending else ([], [])


def write_program_targets(
    layout: DatasetLayout, split: str, vocabulary: Vocabulary, world: World = CLEVR
) -> str:
    """Write ``<split>_program_targets.h5`` from a split's questions, scenes and size of pictures.

    Nothing is written if the file is already complete, or if the questions have no programs.

    Returns
    -------
    str
        What was done, to print.

    Raises
    ------
    UserError
        If the questions, scenes or pictures are missing or do not fit each other.
    """
    path, source, target = (
        layout.question_h5(split), layout.scene_json(split), layout.program_targets_h5(split)
    )  # fmt: skip
    questions = QuestionDataset.load(path, vocabulary)
    with open_hdf5(path) as file:
        if "programs" not in file:  # such as a split whose answers are withheld
            return "no targets, since its questions have no programs"
        programs = read_array(file["programs"])
    content = read_bytes(source, FETCH)
    origin = {
        "format": FORMAT,
        "split": split,
        "questions_sha256": questions.sha256,
        "scenes_size": len(content),
        "scenes_mtime_ns": source.stat().st_mtime_ns,
    }
    if _is_complete(target, origin):
        return "targets of programs, already complete"
    width, height = _picture_size(layout.image_folder(split))
    steps = _steps_by_token(vocabulary)
    referents: list[list[int]] = [[]] * len(questions)
    sets: list[list[int]] = [[]] * len(questions)
    places: dict[int, list[tuple[float, float]]] = {}
    order = torch.argsort(questions.images, stable=True).tolist()
    images = questions.images.tolist()
    scenes = _scenes(source, content, set(images), world)
    at = 0
    with tqdm(total=len(order), desc=f"targets of {split}", unit="question") as bar:
        for image in sorted(scenes):
            index, centres = scenes[image]
            places[image] = [(x / width, y / height) for x, y in centres]
            first = at
            while at < len(order) and images[order[at]] == image:
                row = order[at]
                program = [steps[t] for t in programs[row].tolist() if t >= len(SPECIAL_TOKENS)]
                try:
                    referents[row], sets[row] = named_objects(program, index)
                except NotUniqueError:
                    raise UserError(
                        f"{path}: question {row}: its program does not fit its scene in {source}; "
                        "make both again"
                    ) from None
                at += 1
            bar.update(at - first)
    arrays = {
        "referents": _padded(referents, MISSING, np.int8),
        "sets": _padded(sets, MISSING, np.int64),
        "image_idxs": np.array(sorted(places), np.int32),
        "positions": _padded([places[i] for i in sorted(places)], np.nan, np.float32, 2),
    }
    buffer = io.BytesIO()
    with h5py.File(buffer, "w") as file:
        for name, values in arrays.items():
            file.create_dataset(name, data=values)
        file.attrs.update({**origin, "sha256": arrays_sha256(arrays)})
    write_file(target, buffer.getbuffer())
    return f"targets of the programs of {len(questions):,} questions, written"


def _is_complete(target: Path, origin: dict[str, Any]) -> bool:
    """Whether the file exists with this origin; raise ``UserError`` for a file of another kind."""
    try:
        with open_hdf5(target) as file:
            attributes = dict(file.attrs)
    except FileNotFoundError:
        return False
    except HDF5_ERRORS as error:
        raise unreadable(target, error, f"move it away, and {MAKE}") from None
    if "questions_sha256" not in attributes:
        raise UserError(f"{target}: was not made by this program; move it to another folder")
    return all(attributes.get(name) == value for name, value in origin.items())


def _picture_size(folder: Path) -> tuple[int, int]:
    """Width and height of a folder's pictures, which all have one size."""
    pictures = find_pictures(folder)
    if not pictures:
        raise UserError(f"{folder}: no pictures in it, whose size is required; add them")
    return IMAGES.size(pictures[min(pictures)])


def _steps_by_token(vocabulary: Vocabulary) -> dict[int, tuple[str, str | None]]:
    """Function and value of each token of the program vocabulary."""
    steps: dict[int, tuple[str, str | None]] = {}
    for name, token in vocabulary.program.items():
        function, _, value = name.partition("[")
        steps[token] = function, value.removesuffix("]") or None
    return steps


def _scenes(
    path: Path, content: bytes, images: set[int], world: World
) -> dict[int, tuple[SceneIndex, list[tuple[float, float]]]]:
    """Read the scenes of some images, each with the pixels of its objects' centres."""
    scenes = {}
    for number, raw in enumerate(decode_json(content, SceneFile, path, FETCH_AGAIN).scenes):
        try:
            scene = decode_scene(raw, world)
            if scene.image_index not in images:
                continue
            if len(scene.objects) > MAX_OBJECTS:
                raise ValueError(f"has more than {MAX_OBJECTS} objects")
        except ValueError as error:
            raise UserError(f"{path}: scene {number}: {error}; {CORRECT}") from None
        if any(len(thing.pixel_coords or ()) < 2 for thing in scene.objects):
            raise UserError(
                f"{path}: scene {number}: has objects without pixel_coords; give scenes that say "
                "where objects are in the picture"
            )
        centres = [(thing.pixel_coords[0], thing.pixel_coords[1]) for thing in scene.objects]
        scenes[scene.image_index] = SceneIndex(scene, world), centres
    if lacking := images - scenes.keys():
        raise UserError(f"{path}: has no scene of image {min(lacking)}; make it again")
    return scenes


def _padded(rows: Sequence[Sequence[Any]], fill: float, dtype: Any, *shape: int) -> NDArray[Any]:
    """Pad rows of different lengths to one array of at least one column."""
    width = max(1, *map(len, rows))
    padded = np.full((len(rows), width, *shape), fill, dtype)
    for row, values in zip(padded, rows, strict=True):
        if values:
            row[: len(values)] = values
    return padded
