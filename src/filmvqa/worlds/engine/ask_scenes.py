"""Questions about the scenes of a JSON file, of a world of this package or any other."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Annotated

import msgspec
from tqdm import tqdm

from filmvqa.settings.inputs import FILE
from filmvqa.settings.typed import PathText, Positive, Probability, ProgramSettings, Seed, Workers
from filmvqa.system.cores import cores
from filmvqa.system.errors import UserError
from filmvqa.system.files import read_bytes, refuse_overwriting
from filmvqa.worlds.engine.families import Family, read_families
from filmvqa.worlds.engine.questions import IMAGES_PER_SHARD, ask_shard
from filmvqa.worlds.engine.scene_records import Relate, SceneFile, decode_scene
from filmvqa.worlds.engine.schema import (
    CORRECT,
    FETCH,
    FETCH_AGAIN,
    Info,
    Question,
    decode_json,
    numbered,
    write_records,
)
from filmvqa.worlds.engine.short_questions import check_short_questions
from filmvqa.worlds.engine.worker_pool import worker_pool
from filmvqa.worlds.engine.world import read_world


@dataclass(frozen=True, kw_only=True)
class AskScenesSettings(ProgramSettings):
    """Questions about the scenes of a file.

    Attributes
    ----------
    scenes
        Scene JSON in CLEVR's format, from the release or any generator. A scene needs
        ``image_filename``, ``objects`` with the world's attributes, and ``relationships``. Scenes
        without ``relationships`` need the fields that the world's ``relate`` reads.
    output
        Question JSON; the file must not exist.
    world
        ``clevr``, ``sound``, or the path of a ``metadata.json`` with attributes and relations.
    templates
        Folder of template files; None selects the world's templates.
    families
        Groups and numbers of the question families; None selects all of them.
    questions_per_image
        Maximal number of questions about one image.
    short_questions
        Share of the questions about an image that are short (``ShortQuestions``), rounded down.
    seed
        Random seed of the questions.
    workers
        Number of processes; None selects the number of cores. The output does not depend on it.
    """

    scenes: Annotated[PathText, FILE]
    output: PathText
    world: PathText = "clevr"
    templates: PathText | None = None
    families: list[str | int] | None = None
    questions_per_image: Positive = 10
    short_questions: Probability = 0.0
    seed: Seed = 0
    workers: Workers | None = None


def ask_scenes(settings: AskScenesSettings, relate: Relate | None = None) -> int:
    """Write questions about the scenes of a file in CLEVR's format.

    Scenes of this package's generators get the same questions as from ``generate`` with the same
    settings and package version. No split's answers are withheld.

    Parameters
    ----------
    relate
        A module-level function that computes the relationships of scenes that have none.

    Returns
    -------
    int
        Number of questions.

    Raises
    ------
    UserError
        If the output exists, or a scene is invalid; the message gives the scene's number.
    """
    scenes, output = Path(settings.scenes), Path(settings.output)
    refuse_overwriting(output, scenes)
    if output.exists():
        raise UserError(f"{output}: exists already; choose another output")
    families = _read_families(settings)  # reports invalid templates at once
    if settings.short_questions:
        check_short_questions(families)
    file = decode_json(read_bytes(scenes, FETCH), SceneFile, scenes, FETCH_AGAIN)
    if not file.scenes:
        raise UserError(f"{scenes}: contains no scenes; give another file")
    records = [bytes(raw) for raw in file.scenes]
    shards = [
        (records[first : first + IMAGES_PER_SHARD], first, settings, relate)
        for first in range(0, len(records), IMAGES_PER_SHARD)
    ]
    with worker_pool(settings.workers or cores()) as pool:
        results = pool.map(_ask_records, *zip(*shards, strict=True))
        progress = tqdm(results, total=len(shards), desc="questions", unit="shard")
        questions = numbered(chain.from_iterable(progress))
        return write_records(output, file.info or Info(split=""), "questions", questions)


def _read_families(settings: AskScenesSettings) -> list[Family]:
    return read_families(settings.templates, settings.families, read_world(settings.world))


def _ask_records(
    records: list[bytes], first: int, settings: AskScenesSettings, relate: Relate | None
) -> list[Question]:
    """Return the questions of one shard; ``records[0]`` is scene number ``first`` of the file."""
    scenes, world = [], read_world(settings.world)
    for number, record in enumerate(records, first):
        try:
            scenes.append(decode_scene(record, world, relate))
        except (msgspec.ValidationError, ValueError) as error:
            raise UserError(
                f"{settings.scenes}: scene {number}: {error}; {CORRECT}, or give world=<its world>"
            ) from None
    name = f"{settings.seed}/{scenes[0].split}/{first // IMAGES_PER_SHARD}"
    families, count = _read_families(settings), settings.questions_per_image
    return ask_shard(scenes, families, count, name, world, settings.short_questions)
