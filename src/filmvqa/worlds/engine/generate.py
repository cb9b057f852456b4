"""Parallel, resumable generation of data sets in CLEVR's file layout, of any world.

Images are drawn in chunks of ``IMAGES_PER_CHUNK``, questions are generated in shards of
``IMAGES_PER_SHARD`` images. Each finished chunk or shard is a file in ``.partial`` until its split
is merged. An image depends only on the settings, split and index; the questions of a shard depend
only on its scenes, the settings, split and shard. Neither the number of workers nor that of parts
(``parts``) changes a byte.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeAlias

from tqdm import tqdm

from filmvqa.settings.typed import Workers, checked
from filmvqa.system.cores import cores
from filmvqa.system.disk import check_disk_space
from filmvqa.system.errors import UserError
from filmvqa.system.files import names_in
from filmvqa.system.layout import DatasetLayout
from filmvqa.system.locks import folder_lock
from filmvqa.worlds.engine.maker import Maker, generate_questions
from filmvqa.worlds.engine.merge import merge_split
from filmvqa.worlds.engine.partial_files import (
    IMAGES_PER_CHUNK,
    chunks_of_shard,
    images_of_chunk,
    is_merged,
)
from filmvqa.worlds.engine.parts import (
    Part,
    all_shards,
    missing_parts,
    refuse_running_parts,
    said_missing,
)
from filmvqa.worlds.engine.set_settings import SetSettings, record_settings
from filmvqa.worlds.engine.worker_pool import worker_pool

#: How long a part waits for another that begins, and the last parts for the one that merges.
_SECONDS_TO_BEGIN = 60.0
_SECONDS_TO_MERGE = 3600.0
#: Split, indices of images, and the number of their chunk; None if their scenes are kept.
_Drawing: TypeAlias = tuple[str, list[int], int | None]


def generate(
    maker: Maker, root: str | Path, settings: SetSettings, workers: int | None = None
) -> bool:
    """Generate a set in ``root``, or what of it is missing.

    Parameters
    ----------
    maker
        How sets of the world are made.
    root
        Folder of the set.
    settings
        Settings of the set; a set that exists must have been generated with the same settings.
    workers
        Number of worker processes; None selects the number of cores.

    Returns
    -------
    bool
        False if the set was complete already: every image, mask, scene and question file.

    Raises
    ------
    UserError
        If ``root`` contains another set (which is not changed), a template is invalid, the disk
        has too little space, a worker process was killed, or another process works on the set.
    """
    checked(workers, Workers | None, "workers")
    layout = maker.layout(root)
    families = maker.read_families(settings)
    with folder_lock(layout.root):
        refuse_running_parts(layout)
        record_settings(layout, settings, families)
        return _generate_missing(maker, layout, settings, workers)


def generate_part(
    maker: Maker, root: str | Path, settings: SetSettings, part: Part, workers: int | None = None
) -> list[int]:
    """Generate a part of a set in ``root``, or what of it is missing; merge the set if no other
    part is missing.

    Processes may make the other parts at the same time, on any machine that shares the folder. The
    set has the same bytes as one that ``generate`` makes.

    Returns
    -------
    list of int
        The parts that are missing; none if the set is complete.

    Raises
    ------
    UserError
        As ``generate``; also if the set has fewer shards than parts.
    """
    checked(workers, Workers | None, "workers")
    layout = maker.layout(root)
    families = maker.read_families(settings)
    shards = part.shards(settings)
    with ExitStack() as held:
        with folder_lock(layout.root, patience=_SECONDS_TO_BEGIN):
            refuse_running_parts(layout, but_of=part.count)
            record_settings(layout, settings, families)
            held.enter_context(part.lock(layout))
        shards = [(split, k) for split, k in shards if not is_merged(layout, split)]
        _make(maker, layout, settings, shards, [], workers)
    if missing := missing_parts(layout, settings, part.count):
        return missing
    with folder_lock(layout.root, patience=_SECONDS_TO_MERGE):
        _merge(maker, layout, settings)  # unless another of the last parts has just done so
    return []


def merge_parts(maker: Maker, root: str | Path, settings: SetSettings, parts: int) -> None:
    """Merge a set of which ``parts`` parts were generated, as the last of them does.

    Raises
    ------
    UserError
        If a part is missing, or is being made; if ``root`` contains another set.
    """
    layout = maker.layout(root)
    families = maker.read_families(settings)
    if missing := missing_parts(layout, settings, parts):
        raise UserError(
            f"{root}: {said_missing(missing, parts)}; generate each with "
            f"parts={parts} part=<number>"
        )
    with folder_lock(layout.root):
        refuse_running_parts(layout)
        record_settings(layout, settings, families)
        _merge(maker, layout, settings)


def _generate_missing(
    maker: Maker, layout: DatasetLayout, settings: SetSettings, workers: int | None
) -> bool:
    shards = [(split, k) for split, k in all_shards(settings) if not is_merged(layout, split)]
    lost = [
        (split, chunk, None)
        for split, count in settings.images.items()
        if count and is_merged(layout, split)
        for chunk in _lost_images(maker, layout, settings, split)
    ]
    if shards or lost:
        _make(maker, layout, settings, shards, lost, workers)
    _merge(maker, layout, settings)
    return bool(shards or lost)


def _make(
    maker: Maker,
    layout: DatasetLayout,
    settings: SetSettings,
    shards: Sequence[tuple[str, int]],
    lost: Sequence[_Drawing],
    workers: int | None,
) -> None:
    """Make the missing partial files of shards, and draw lost images of splits that are merged."""
    drawings = [*lost]
    for split, shard in shards:
        count = settings.images[split]
        drawings += [
            (split, list(images_of_chunk(chunk, count)), chunk)
            for chunk in chunks_of_shard(shard, count)
            if not layout.partial_json(split, "scenes", chunk).exists()
        ]
    questions = [
        (maker, layout, settings, *shard)
        for shard in shards
        if not layout.partial_json(shard[0], "questions", shard[1]).exists()
    ]
    if not drawings and not questions:
        return
    images = sum(len(indices) for _, indices, _ in drawings)
    check_disk_space(layout.root, images * maker.bytes_per_image(settings))
    with worker_pool(workers or cores()) as pool:
        jobs = [(layout, settings, *drawing) for drawing in drawings]
        _run_jobs(pool, maker.draw_chunk, jobs, maker.unit, images)
        _run_jobs(pool, generate_questions, questions, "questions")


def _merge(maker: Maker, layout: DatasetLayout, settings: SetSettings) -> None:
    for split, count in settings.images.items():
        if count and not is_merged(layout, split):
            merge_split(maker, layout, settings, split)
    shutil.rmtree(layout.partial, ignore_errors=True)


def _lost_images(
    maker: Maker, layout: DatasetLayout, settings: SetSettings, split: str
) -> list[list[int]]:
    """The indices of the images of a merged split that are no longer there, in chunks."""
    present = [set(names_in(folder)) for folder in maker.folders(layout, settings, split)]
    lost = [
        i
        for i in range(settings.images[split])
        if any(maker.file_name(split, i) not in names for names in present)
    ]
    return [lost[i : i + IMAGES_PER_CHUNK] for i in range(0, len(lost), IMAGES_PER_CHUNK)]


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
