"""Whole data sets in CLEVR's layout, in parallel, resumable, the same for any number of workers.

Images are drawn in chunks and questions asked in shards of ``IMAGES_PER_SHARD``; each piece that
is finished lies as a file in ``.partial`` until its split is put together. An image depends only
on (seed, split, index), the questions of a shard only on its scenes, (seed, split, shard).
"""

from __future__ import annotations

import io
import os
import shutil
import signal
import threading
import zlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from itertools import chain
from multiprocessing import get_context, parent_process
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

from filmvqa.clevr.families import read_families
from filmvqa.clevr.questions import IMAGES_PER_SHARD, ask_shard
from filmvqa.clevr.render import Rendered, render
from filmvqa.clevr.scenes import (
    MAX_RESTARTS,
    SceneRules,
    image_filename,
    sample_layout,
    to_scene,
)
from filmvqa.clevr.schema import Info, Question, Scene, decode_json, encode_json
from filmvqa.disk import check_disk_space
from filmvqa.errors import UserError
from filmvqa.files import atomic_write, read_bytes, write_file
from filmvqa.locks import folder_lock

IMAGES_PER_CHUNK = 50
#: What a generated image takes on the disk, with room to spare (measured: 0.5 to 0.9).
BYTES_PER_PIXEL = 1
_INFO = {"license": "Creative Commons Attribution (CC BY 4.0)", "version": "1.0"}
_REMEDY = "delete it and run generate_clevr.py again"


@dataclass(frozen=True)
class GeneratorSettings:
    """All that a generated set depends on.

    ``images`` gives the number of images of each split (0: none); ``families`` the groups and
    numbers of question families (None: all); ``withhold`` the splits whose questions come without
    answers, as CLEVR's test split; ``date`` goes into the files' heads, fixed so that the same
    settings give the same bytes.
    """

    images: dict[str, int]
    width: int = 480
    height: int = 320
    rays: int = 2
    seed: int = 0
    questions_per_image: int = 10
    families: list[str | int] | None = None
    templates: str | None = None
    withhold: tuple[str, ...] = ("test",)
    masks: bool = False
    date: str = "2026-11-23"
    rules: SceneRules = field(default_factory=SceneRules)

    def __post_init__(self) -> None:
        for split, count in self.images.items():
            if not split.isidentifier() or count < 0:
                raise UserError(f"images.{split}={count}; need a plain name and 0 or more images")
            if count:
                self.rules.of_split(split)
        if min(self.width, self.height) < 16 or not 1 <= self.rays <= 16:
            raise UserError(
                f"images of {self.width}×{self.height} with rays={self.rays}; "
                "use at least 16×16 and 1 to 16 rays a side"
            )


@dataclass(frozen=True)
class SetFolder:
    """Where the files of a CLEVR-format set lie."""

    root: Path

    def image_folder(self, split: str) -> Path:
        return self.root / "images" / split

    def mask_folder(self, split: str) -> Path:
        return self.root / "masks" / split

    def scenes(self, split: str) -> Path:
        return self.root / "scenes" / f"CLEVR_{split}_scenes.json"

    def questions(self, split: str) -> Path:
        return self.root / "questions" / f"CLEVR_{split}_questions.json"

    def partial(self, split: str, kind: str, number: int) -> Path:
        return self.root / ".partial" / split / f"{kind}_{number:06d}.json"

    def remove_partial(self) -> None:
        shutil.rmtree(self.root / ".partial", ignore_errors=True)

    @property
    def settings(self) -> Path:
        return self.root / "generation.json"


def generate(root: str | Path, settings: GeneratorSettings, workers: int | None = None) -> bool:
    """Generate a set under ``root``; False if it was already there and complete.

    Raises
    ------
    UserError
        If ``root`` holds a set of other settings; nothing is changed then.
    """
    folder = SetFolder(Path(root))
    read_families(settings.templates, settings.families)  # broken templates are named before work
    with folder_lock(folder.root):
        claim(folder, settings)
        return _generate(folder, settings, workers or os.cpu_count() or 1)


def _generate(folder: SetFolder, settings: GeneratorSettings, workers: int) -> bool:
    jobs: list[tuple[str, list[int], int | None]] = []
    unfinished = []
    for split, count in settings.images.items():
        if count == 0:
            continue
        if folder.questions(split).exists():
            present = {path.name for path in folder.image_folder(split).glob("*.png")}
            missing = [i for i in range(count) if image_filename(split, i) not in present]
            jobs += [(split, part, None) for part in _parts(missing, IMAGES_PER_CHUNK)]
            continue
        unfinished.append(split)
        for k, part in enumerate(_parts(list(range(count)), IMAGES_PER_CHUNK)):
            if not folder.partial(split, "scenes", k).exists():
                jobs.append((split, part, k))
    if not jobs and not unfinished:
        folder.remove_partial()
        return False
    images = sum(len(part) for _, part, _ in jobs)
    check_disk_space(folder.root, images * settings.width * settings.height * BYTES_PER_PIXEL)
    with ProcessPoolExecutor(workers, get_context("spawn"), _obey_parent) as pool:
        _run_all(pool, draw_chunk, [(folder, settings, *job) for job in jobs], "images", images)
        shards = [
            (folder, settings, split, k)
            for split in unfinished
            for k in range(-(-settings.images[split] // IMAGES_PER_SHARD))
            if not folder.partial(split, "questions", k).exists()
        ]
        _run_all(pool, draw_questions, shards, "questions")
    for split in unfinished:
        _merge(folder, settings, split)
    folder.remove_partial()
    return True


def _obey_parent() -> None:
    """Make a worker end with its parent, and not before.

    Ctrl-C, and the signal that ends a batch job, reach workers too: they finish their piece while
    the parent hands out no more. A parent that is killed says nothing, but its end can be waited
    for.
    """
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    parent = parent_process()
    assert parent is not None

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _parts(numbers: list[int], size: int) -> list[list[int]]:
    return [numbers[i : i + size] for i in range(0, len(numbers), size)]


def claim(folder: SetFolder, settings: GeneratorSettings) -> None:
    """Record the settings in the folder, or compare them with those recorded.

    Raises
    ------
    UserError
        If they differ, or the folder holds a set that was not generated.
    """
    wanted = msgspec.to_builtins(settings)
    if folder.settings.exists():
        found = decode_json(
            read_bytes(folder.settings, _REMEDY), dict[str, Any], folder.settings, _REMEDY
        )
        wanted = msgspec.json.decode(msgspec.json.encode(wanted))
        if found != wanted:
            changed = _differences(found, wanted)
            raise UserError(
                f"{folder.root}: holds a set made with other settings ({'; '.join(changed)}); "
                "give the same ones, another folder, or delete it"
            )
        return
    if (folder.root / "questions").exists():
        raise UserError(
            f"{folder.root}: holds questions that were not generated here; choose another folder"
        )
    write_file(folder.settings, msgspec.json.format(encode_json(wanted), indent=1) + b"\n")


def _differences(found: dict[str, Any], wanted: dict[str, Any], prefix: str = "") -> list[str]:
    changes: list[str] = []
    for key in sorted(found.keys() | wanted.keys()):
        a, b = found.get(key), wanted.get(key)
        if isinstance(a, dict) and isinstance(b, dict):
            changes += _differences(a, b, f"{prefix}{key}.")
        elif a != b:
            changes.append(f"{prefix}{key} was {a}, now {b}")
    return changes


def _run_all(
    pool: ProcessPoolExecutor,
    work: Callable[..., int],
    jobs: Sequence[tuple[Any, ...]],
    unit: str,
    total: int | None = None,
) -> None:
    futures = [pool.submit(work, *job) for job in jobs]
    try:
        with tqdm(total=total, desc=unit, unit=unit.removesuffix("s"), disable=not jobs) as bar:
            for future in as_completed(futures):
                bar.update(future.result())
    except BrokenProcessPool:
        raise UserError(
            "a worker process was killed, most often for want of memory; run the same command "
            "again with fewer workers=<number>: what is finished is kept"
        ) from None
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        raise


def draw_image(settings: GeneratorSettings, split: str, index: int) -> tuple[Scene, Rendered]:
    """The scene and the picture of one image, which depend only on (seed, split, index).

    Layouts are drawn until every object shows enough pixels.
    """
    rng = np.random.default_rng([settings.seed, zlib.crc32(split.encode()), index])
    width, height = settings.width, settings.height
    rules = settings.rules.of_split(split)
    least = rules.min_visible(width, height)
    for _ in range(MAX_RESTARTS):
        layout = sample_layout(rng, rules)
        rendered = render(layout, width, height, settings.rays, least)
        if rendered is not None:
            return to_scene(layout, rules, split, index, width, height), rendered
    raise UserError(
        f"image {index} of {split}: {MAX_RESTARTS} scenes in a row hid an object; lower "
        "rules.min_pixels or rules.max_objects"
    )


def draw_chunk(
    folder: SetFolder,
    settings: GeneratorSettings,
    split: str,
    indices: list[int],
    chunk: int | None,
) -> int:
    """Draw images; their scenes become partial file ``chunk`` (None: the scenes are there)."""
    folder.image_folder(split).mkdir(parents=True, exist_ok=True)
    if settings.masks:
        folder.mask_folder(split).mkdir(parents=True, exist_ok=True)
    scenes = []
    for index in indices:
        scene, rendered = draw_image(settings, split, index)
        _write_png(folder.image_folder(split) / scene.image_filename, rendered.image)
        if settings.masks:
            _write_png(folder.mask_folder(split) / scene.image_filename, rendered.mask)
        scenes.append(scene)
    if chunk is not None:
        write_file(folder.partial(split, "scenes", chunk), encode_json(scenes))
    return len(indices)


def _write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    encoded = io.BytesIO()
    # The lowest compression: three times as fast as the default, files a tenth larger.
    Image.fromarray(pixels).save(encoded, format="PNG", compress_level=1)
    write_file(path, encoded.getbuffer())


def _scenes_of(folder: SetFolder, split: str, chunks: range) -> Iterator[Scene]:
    for k in chunks:
        path = folder.partial(split, "scenes", k)
        yield from decode_json(read_bytes(path, _REMEDY), list[Scene], path, _REMEDY)


def draw_questions(folder: SetFolder, settings: GeneratorSettings, split: str, shard: int) -> int:
    """Ask the questions of one shard; returns their number."""
    per_shard = IMAGES_PER_SHARD // IMAGES_PER_CHUNK
    last = -(-settings.images[split] // IMAGES_PER_CHUNK)
    chunks = range(shard * per_shard, min((shard + 1) * per_shard, last))
    questions = ask_shard(
        list(_scenes_of(folder, split, chunks)),
        read_families(settings.templates, settings.families),
        settings.questions_per_image,
        f"{settings.seed}/{split}/{shard}",
    )
    write_file(folder.partial(split, "questions", shard), encode_json(questions))
    return len(questions)


def _merge(folder: SetFolder, settings: GeneratorSettings, split: str) -> None:
    """Put a split's scene and question files together; the question file, which says that the
    split is complete, comes last."""
    chunks = range(-(-settings.images[split] // IMAGES_PER_CHUNK))
    _write_array(folder.scenes(split), settings, split, "scenes", _scenes_of(folder, split, chunks))
    shards = range(-(-settings.images[split] // IMAGES_PER_SHARD))
    questions = chain.from_iterable(
        decode_json(read_bytes(path, _REMEDY), list[Question], path, _REMEDY)
        for path in (folder.partial(split, "questions", k) for k in shards)
    )
    _write_array(
        folder.questions(split),
        settings,
        split,
        "questions",
        (_numbered(q, i, split in settings.withhold) for i, q in enumerate(questions)),
    )


def _numbered(question: Question, number: int, withhold: bool) -> Question:
    question.question_index = number
    if withhold:
        question.answer = question.program = question.question_family_index = None
    return question


T = TypeVar("T", Scene, Question)


def _write_array(
    path: Path, settings: GeneratorSettings, split: str, key: str, records: Iterator[T]
) -> None:
    """A CLEVR file {"info": ..., key: [...]}, written record by record to bound memory."""
    info = Info(split=split, date=settings.date, **_INFO)
    with atomic_write(path) as stream:
        stream.write(b'{"info":' + encode_json(info) + f',"{key}":['.encode())
        for i, record in enumerate(records):
            stream.write((b",\n" if i else b"\n") + encode_json(record))
        stream.write(b"\n]}\n")
