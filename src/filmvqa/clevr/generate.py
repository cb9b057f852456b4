"""Whole data sets in CLEVR's layout, in parallel, resumable, the same for any number of workers.

Images are drawn in chunks and questions asked in shards of ``IMAGES_PER_SHARD``; each piece that
is finished lies as a file in ``.partial`` until its split is put together. An image depends only
on (seed, split, index), the questions of a shard only on its scenes, (seed, split, shard).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from tqdm import tqdm

from filmvqa.clevr.families import read_families
from filmvqa.clevr.generator_settings import GeneratorSettings, record_settings
from filmvqa.clevr.layout import SetFolder
from filmvqa.clevr.merge import merge_split
from filmvqa.clevr.partial_files import IMAGES_PER_CHUNK, shard_count
from filmvqa.clevr.scenes import image_filename
from filmvqa.clevr.workers import draw_chunk, exit_with_parent, generate_questions
from filmvqa.disk import check_disk_space
from filmvqa.errors import UserError
from filmvqa.locks import folder_lock

#: What a generated image takes on the disk, with room to spare (measured: 0.5 to 0.9).
BYTES_PER_PIXEL = 1


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
        record_settings(folder, settings)
        return _generate_missing(folder, settings, workers or os.cpu_count() or 1)


def _generate_missing(folder: SetFolder, settings: GeneratorSettings, workers: int) -> bool:
    jobs: list[tuple[str, list[int], int | None]] = []
    unfinished = []
    for split, count in settings.images.items():
        if count == 0:
            continue
        if folder.questions(split).exists():
            present = {path.name for path in folder.image_folder(split).glob("*.png")}
            missing = [i for i in range(count) if image_filename(split, i) not in present]
            jobs += [
                (split, chunk, None) for chunk in _split_into_chunks(missing, IMAGES_PER_CHUNK)
            ]
            continue
        unfinished.append(split)
        for k, chunk in enumerate(_split_into_chunks(list(range(count)), IMAGES_PER_CHUNK)):
            if not folder.partial(split, "scenes", k).exists():
                jobs.append((split, chunk, k))
    if not jobs and not unfinished:
        folder.remove_partial()
        return False
    images = sum(len(chunk) for _, chunk, _ in jobs)
    check_disk_space(folder.root, images * settings.width * settings.height * BYTES_PER_PIXEL)
    with ProcessPoolExecutor(workers, get_context("spawn"), exit_with_parent) as pool:
        _run_jobs(pool, draw_chunk, [(folder, settings, *job) for job in jobs], "images", images)
        shards = [
            (folder, settings, split, k)
            for split in unfinished
            for k in range(shard_count(settings.images[split]))
            if not folder.partial(split, "questions", k).exists()
        ]
        _run_jobs(pool, generate_questions, shards, "questions")
    for split in unfinished:
        merge_split(folder, settings, split)
    folder.remove_partial()
    return True


def _split_into_chunks(numbers: list[int], size: int) -> list[list[int]]:
    return [numbers[i : i + size] for i in range(0, len(numbers), size)]


def _run_jobs(
    pool: ProcessPoolExecutor,
    function: Callable[..., int],
    jobs: Sequence[tuple[Any, ...]],
    unit: str,
    total: int | None = None,
) -> None:
    futures = [pool.submit(function, *job) for job in jobs]
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
