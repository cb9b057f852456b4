"""Parallel, resumable generation of data sets of any world in CLEVR's file layout.

Images are drawn in chunks of ``IMAGES_PER_CHUNK``, and questions are generated in shards of
``IMAGES_PER_SHARD`` images. Each finished chunk or shard is a file in ``.partial`` until its split
is merged. An image depends only on the settings, split and index; the questions of a shard depend
only on its scenes, the settings, split and shard.

Jobs of a cluster may each generate a part of a set on a shared file system. A part is a range of
consecutive shards, counted over all splits, and is locked in ``.partial`` while it is generated.
The set itself is locked only while a part starts and while the set is merged. The files do not
depend on the number of workers or parts.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

from filmvqa.settings.typed import Workers, checked
from filmvqa.system.cores import cores
from filmvqa.system.disk import check_disk_space
from filmvqa.system.errors import UserError
from filmvqa.system.files import names_in, read_bytes, write_file
from filmvqa.system.layout import DatasetLayout
from filmvqa.system.locks import folder_lock
from filmvqa.worlds.engine.families import Family, read_families
from filmvqa.worlds.engine.questions import IMAGES_PER_SHARD, ask_shard
from filmvqa.worlds.engine.schema import (
    Info,
    Question,
    decode_json,
    encode_json,
    numbered,
    write_records,
)
from filmvqa.worlds.engine.set_settings import REMEDY, SetSettings, record_settings
from filmvqa.worlds.engine.short_questions import check_short_questions
from filmvqa.worlds.engine.worker_pool import worker_pool
from filmvqa.worlds.engine.world import World, read_world

IMAGES_PER_CHUNK = 50
#: How long a part waits for the set's lock when it starts, and to merge the set.
_SECONDS_TO_BEGIN = 60.0
_SECONDS_TO_MERGE = 3600.0
_PART_LOCK = re.compile(r"\.(part_\d+_of_(\d+))\.lock")
#: Maximal number of parts that a message lists.
_LISTED = 20
_INFO = {"license": "Creative Commons Attribution (CC BY 4.0)", "version": "1.0"}
#: Split and number of a shard.
_Shard: TypeAlias = tuple[str, int]
#: Split, indices of images, and the number of their chunk; None if their scenes exist already.
_Drawing: TypeAlias = tuple[str, list[int], int | None]


@dataclass(frozen=True)
class Maker:
    """What the generation of sets must know of a world.

    Its functions must be module-level, since worker processes import them by name.

    Attributes
    ----------
    world_name
        The world, as an argument of ``read_world``.
    scene_type
        The record of a scene, a ``SceneRecord``.
    draw
        ``draw(layout, settings, split, index)`` writes the files of one image and returns its
        scene. They depend only on settings, split and index.
    layout
        ``layout(root)``: the layout of a set in a folder.
    folders
        ``folders(layout, settings, split)``: the folders that contain one file for each image.
    file_name
        ``file_name(split, index)``: the name of that file.
    bytes_per_image
        ``bytes_per_image(settings)``: upper estimate of the size of an image's files.
    unit
        Unit of the progress bar.
    """

    world_name: str
    scene_type: type[Any]
    draw: Callable[[DatasetLayout, Any, str, int], Any]
    layout: Callable[[str | Path], DatasetLayout]
    folders: Callable[[DatasetLayout, Any, str], Sequence[Path]]
    file_name: Callable[[str, int], str]
    bytes_per_image: Callable[[Any], int]
    unit: str = "images"

    @property
    def world(self) -> World:
        return read_world(self.world_name)

    def read_families(self, settings: SetSettings) -> list[Family]:
        """Read the question families of the settings; ``UserError`` if a template is invalid."""
        return read_families(settings.templates, settings.families, self.world)

    def generate(self, root: str | Path, settings: SetSettings, workers: int | None = None) -> bool:
        """Generate a set in ``root``, or its missing files.

        Parameters
        ----------
        root
            Folder of the set.
        settings
            Settings of the set. An existing set must have been generated with the same settings.
        workers
            Number of worker processes; None selects the number of cores.

        Returns
        -------
        bool
            False if no image, mask, scene or question file was missing.

        Raises
        ------
        UserError
            If ``root`` contains another set, which is left unchanged; if a template is invalid,
            the disk has too little space, a worker process is killed, or another process is
            generating the set.
        """
        checked(workers, Workers | None, "workers")
        target = GeneratedSet(self, self.layout(root), settings)
        with target.claim():
            shards = [shard for shard in target.shards() if not target.is_merged(shard[0])]
            lost = target.lost_images()
            target.make(shards, lost, workers)
            target.merge()
        return bool(shards or lost)

    def generate_part(
        self,
        root: str | Path,
        settings: SetSettings,
        part: int,
        parts: int,
        workers: int | None = None,
    ) -> list[int]:
        """Generate the missing files of one part, and merge the set if no part is missing.

        Other processes may generate the other parts at the same time, on any machine that shares
        the folder. The set has the same bytes as one from ``generate``.

        Parameters
        ----------
        part, parts
            The part's number, counted from 0, and the number of parts.

        Returns
        -------
        list of int
            The parts that are missing; empty if the set is complete.

        Raises
        ------
        UserError
            As from ``generate``; also if the set has fewer shards than parts.
        """
        checked(workers, Workers | None, "workers")
        target = GeneratedSet(self, self.layout(root), settings)
        shards = target.shards_of_part(part, parts)
        with ExitStack() as locks:
            with target.claim(_SECONDS_TO_BEGIN, parts):
                name = f"part_{part}_of_{parts}"
                locks.enter_context(folder_lock(target.layout.partial, name))
            target.make([shard for shard in shards if not target.is_merged(shard[0])], [], workers)
        if missing := target.missing_parts(parts):
            return missing
        with folder_lock(target.layout.root, patience=_SECONDS_TO_MERGE):
            target.merge()  # unless another of the last parts has just done so
        return []

    def merge_parts(self, root: str | Path, settings: SetSettings, parts: int) -> None:
        """Merge a set that was generated in ``parts`` parts.

        Raises
        ------
        UserError
            If a part is missing or being generated, or if ``root`` contains another set.
        """
        target = GeneratedSet(self, self.layout(root), settings)
        if missing := target.missing_parts(parts):
            raise UserError(
                f"{root}: {list_missing(missing, parts)}; generate each with "
                f"parts={parts} part=<number>"
            )
        with target.claim():
            target.merge()


@dataclass(frozen=True)
class GeneratedSet:
    """A set that is being generated."""

    maker: Maker
    layout: DatasetLayout
    settings: SetSettings

    @contextmanager
    def claim(self, patience: float = 0.0, parts: int | None = None) -> Iterator[None]:
        """Hold the set's lock, and record its settings.

        Waits up to ``patience`` seconds for the lock. Raises ``UserError`` if a part is being
        generated, unless it is one of ``parts`` parts.
        """
        families = self.maker.read_families(self.settings)
        for split, share in (self.settings.short_questions or {}).items():
            if split not in self.settings.images:
                raise UserError(
                    f"short_questions: {split!r} is not among the splits of images, "
                    f"{list(self.settings.images)}"
                )
            if share:
                check_short_questions(families)
        with folder_lock(self.layout.root, patience=patience):
            for name in names_in(self.layout.partial):
                if (match := _PART_LOCK.fullmatch(name)) and match[2] != str(parts):
                    with folder_lock(self.layout.partial, match[1]):
                        pass  # a UserError if the part is being generated
            record_settings(self.layout, self.settings, families)
            yield

    def shards(self) -> list[_Shard]:
        counts = self.settings.images.items()
        return [(s, k) for s, images in counts for k in range(-(-images // IMAGES_PER_SHARD))]

    def shards_of_part(self, part: int, parts: int) -> list[_Shard]:
        """The shards of one part; ``UserError`` if the set has fewer shards than parts."""
        shards = self.shards()
        if len(shards) < parts:
            raise UserError(
                f"parts={parts}: the set can be made in {len(shards)} parts at most; lower it"
            )
        first, end = (len(shards) * k // parts for k in (part, part + 1))
        return shards[first:end]

    def chunks(self, split: str, shard: int) -> range:
        """The chunks of a shard."""
        per_shard = IMAGES_PER_SHARD // IMAGES_PER_CHUNK
        end = -(-self.settings.images[split] // IMAGES_PER_CHUNK)
        return range(shard * per_shard, min((shard + 1) * per_shard, end))

    def is_merged(self, split: str) -> bool:
        """Whether a split's partial files have been merged."""
        return self.layout.question_json(split).exists() and self.layout.scene_json(split).exists()

    def missing_parts(self, parts: int) -> list[int]:
        """The parts that are not complete."""
        return [
            part
            for part in range(parts)
            if not all(self._is_made(*shard) for shard in self.shards_of_part(part, parts))
        ]

    def _is_made(self, split: str, shard: int) -> bool:
        files = [self.layout.partial_json(split, "scenes", k) for k in self.chunks(split, shard)]
        files.append(self.layout.partial_json(split, "questions", shard))
        # In this order: partial files are removed after the split has been merged.
        return all(path.exists() for path in files) or self.is_merged(split)

    def lost_images(self) -> list[_Drawing]:
        """The missing images of merged splits."""
        lost: list[_Drawing] = []
        for split, count in self.settings.images.items():
            if not count or not self.is_merged(split):
                continue
            folders = self.maker.folders(self.layout, self.settings, split)
            present = set.intersection(*(set(names_in(folder)) for folder in folders))
            indices = [i for i in range(count) if self.maker.file_name(split, i) not in present]
            chunks = range(0, len(indices), IMAGES_PER_CHUNK)
            lost += [(split, indices[k : k + IMAGES_PER_CHUNK], None) for k in chunks]
        return lost

    def make(self, shards: Sequence[_Shard], lost: Sequence[_Drawing], workers: int | None) -> None:
        """Generate the missing partial files of shards, and draw the lost images."""
        drawings = [*lost]
        for split, shard in shards:
            for k in self.chunks(split, shard):
                if not self.layout.partial_json(split, "scenes", k).exists():
                    end = min((k + 1) * IMAGES_PER_CHUNK, self.settings.images[split])
                    drawings.append((split, list(range(k * IMAGES_PER_CHUNK, end)), k))
        questions = [
            s for s in shards if not self.layout.partial_json(s[0], "questions", s[1]).exists()
        ]
        if not drawings and not questions:
            return
        images = sum(len(indices) for _, indices, _ in drawings)
        check_disk_space(self.layout.root, images * self.maker.bytes_per_image(self.settings))
        with worker_pool(workers or cores()) as pool:
            _run_jobs(pool, self.draw_chunk, drawings, self.maker.unit, images)
            _run_jobs(pool, self.ask_shard, questions, "questions")

    def draw_chunk(self, split: str, indices: Sequence[int], chunk: int | None) -> int:
        """Draw images and return their number; write their scenes to the partial file of ``chunk``,
        unless that is None."""
        for folder in self.maker.folders(self.layout, self.settings, split):
            folder.mkdir(parents=True, exist_ok=True)
        scenes = [self.maker.draw(self.layout, self.settings, split, i) for i in indices]
        if chunk is not None:
            write_file(self.layout.partial_json(split, "scenes", chunk), encode_json(scenes))
        return len(scenes)

    def ask_shard(self, split: str, shard: int) -> int:
        """Write the questions of one shard to its partial file, and return their number."""
        questions = ask_shard(
            list(self._read_partial(split, "scenes", self.chunks(split, shard))),
            self.maker.read_families(self.settings),
            self.settings.questions_per_image,
            f"{self.settings.seed}/{split}/{shard}",
            self.maker.world,
            (self.settings.short_questions or {}).get(split, 0),
        )
        write_file(self.layout.partial_json(split, "questions", shard), encode_json(questions))
        return len(questions)

    def _read_partial(self, split: str, content: str, numbers: Iterable[int]) -> Iterator[Any]:
        """Yield the records of partial files; ``UserError`` if a file is missing or damaged."""
        record: Any = self.maker.scene_type if content == "scenes" else Question
        for k in numbers:
            path = self.layout.partial_json(split, content, k)
            yield from decode_json(read_bytes(path, REMEDY), list[record], path, REMEDY)

    def merge(self) -> None:
        """Write the scene file and the question file of each split that has none.

        The question file is written last: its existence marks the split as complete.
        """
        for split, count in self.settings.images.items():
            if not count or self.is_merged(split):
                continue
            shards = [k for name, k in self.shards() if name == split]
            chunks = [chunk for k in shards for chunk in self.chunks(split, k)]
            info = Info(split=split, date=self.settings.date, **_INFO)
            scenes = self._read_partial(split, "scenes", chunks)
            write_records(self.layout.scene_json(split), info, "scenes", scenes)
            questions = map(self._withhold, self._read_partial(split, "questions", shards))
            write_records(self.layout.question_json(split), info, "questions", numbered(questions))
        shutil.rmtree(self.layout.partial, ignore_errors=True)

    def _withhold(self, question: Question) -> Question:
        if question.split in self.settings.withhold:
            question.answer = question.program = question.question_family_index = None
            question.objects = None
        return question


def list_missing(numbers: list[int], parts: int) -> str:
    """Say in words which parts are missing."""
    listed = ", ".join(map(str, numbers[:_LISTED]))
    more = f" and {len(numbers) - _LISTED} more" if len(numbers) > _LISTED else ""
    noun, verb = ("part", "is") if len(numbers) == 1 else ("parts", "are")
    return f"{noun} {listed}{more} of {parts} {verb} missing"


def _run_jobs(
    pool: ProcessPoolExecutor,
    function: Callable[..., int],
    jobs: Sequence[tuple[Any, ...]],
    unit: str,
    total: int | None = None,
) -> None:
    futures = [pool.submit(function, *job) for job in jobs]
    with tqdm(total=total, desc=unit, unit=unit.removesuffix("s"), disable=not jobs) as bar:
        for future in as_completed(futures):
            bar.update(future.result())
