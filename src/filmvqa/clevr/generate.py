"""Parallel, resumable generation of data sets in CLEVR's file layout.

Images are drawn in chunks of ``IMAGES_PER_CHUNK``, questions are generated in shards of
``IMAGES_PER_SHARD`` images. Each finished chunk or shard is a file in ``.partial`` until its split
is merged. An image depends only on the settings, split and index; the questions of a shard depend
only on its scenes, the settings, split and shard. The number of workers changes no byte.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from tqdm import tqdm

from filmvqa.clevr.families import read_families
from filmvqa.clevr.generator_settings import GeneratorSettings, record_settings
from filmvqa.clevr.merge import merge_split
from filmvqa.clevr.partial_files import IMAGES_PER_CHUNK, shard_count
from filmvqa.clevr.scenes import image_filename
from filmvqa.clevr.workers import draw_chunk, generate_questions, worker_pool
from filmvqa.disk import check_disk_space
from filmvqa.files import names_in
from filmvqa.layout import DatasetLayout
from filmvqa.locks import folder_lock
from filmvqa.settings import Workers, checked

#: Upper estimate of the size of a PNG file (measured: 0.5 to 0.9).
BYTES_PER_PIXEL = 1


def generate(root: str | Path, settings: GeneratorSettings, workers: int | None = None) -> bool:
    """Generate a set in ``root``, or the parts of it that are missing.

    Parameters
    ----------
    root
        Folder of the set.
    settings
        Settings of the set; a set that exists must have been generated with the same settings.
    workers
        Number of worker processes; None selects the number of CPUs.

    Returns
    -------
    bool
        False if the set was complete already: every image, mask, scene and question file.

    Raises
    ------
    UserError
        If ``root`` contains another set (which is not changed), a template is invalid, the disk
        has too little space, or a worker process was killed.
    """
    checked(workers, Workers | None, "workers")
    layout = DatasetLayout.under(root)
    families = read_families(settings.templates, settings.families)
    with folder_lock(layout.root):
        record_settings(layout, settings, families)
        return _generate_missing(layout, settings, workers or os.cpu_count() or 1)


def _generate_missing(layout: DatasetLayout, settings: GeneratorSettings, workers: int) -> bool:
    splits = [split for split, count in settings.images.items() if count]
    unfinished = [split for split in splits if not _is_merged(layout, split)]
    jobs = [job for split in splits for job in _plan_images(layout, settings, split)]
    if not jobs and not unfinished:
        shutil.rmtree(layout.partial, ignore_errors=True)
        return False
    images = sum(len(chunk) for _, chunk, _ in jobs)
    check_disk_space(layout.root, images * settings.width * settings.height * BYTES_PER_PIXEL)
    with worker_pool(workers) as pool:
        _run_jobs(pool, draw_chunk, [(layout, settings, *job) for job in jobs], "images", images)
        shards = [
            (layout, settings, split, k)
            for split in unfinished
            for k in range(shard_count(settings.images[split]))
            if not layout.partial_json(split, "questions", k).exists()
        ]
        _run_jobs(pool, generate_questions, shards, "questions")
    for split in unfinished:
        merge_split(layout, settings, split)
    shutil.rmtree(layout.partial, ignore_errors=True)
    return True


def _is_merged(layout: DatasetLayout, split: str) -> bool:
    return layout.question_json(split).exists() and layout.scene_json(split).exists()


def _plan_images(
    layout: DatasetLayout, settings: GeneratorSettings, split: str
) -> list[tuple[str, list[int], int | None]]:
    """Return split, image indices and chunk number of each chunk that has to be drawn.

    The chunk number is None if the split is merged and only lost images are drawn again.
    """
    count = settings.images[split]
    if _is_merged(layout, split):
        folders = [layout.image_folder(split)]
        if settings.masks:
            folders.append(layout.mask_folder(split))
        present = [set(names_in(folder)) for folder in folders]
        missing = [
            i for i in range(count) if any(image_filename(split, i) not in p for p in present)
        ]
        return [(split, chunk, None) for chunk in _split_into_chunks(missing)]
    return [
        (split, chunk, k)
        for k, chunk in enumerate(_split_into_chunks(list(range(count))))
        if not layout.partial_json(split, "scenes", k).exists()
    ]


def _split_into_chunks(indices: list[int]) -> list[list[int]]:
    return [indices[i : i + IMAGES_PER_CHUNK] for i in range(0, len(indices), IMAGES_PER_CHUNK)]


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
