"""Worker processes; each call in one makes a chunk of images or a shard of questions."""

from __future__ import annotations

import io
import os
import signal
import threading
import zlib
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import get_context, get_start_method, set_start_method
from multiprocessing.connection import Connection, wait
from pathlib import Path

import numpy as np
from PIL import Image

from filmvqa.clevr.generator_settings import GeneratorSettings
from filmvqa.clevr.partial_files import chunks_of_shard, read_partial_scenes
from filmvqa.clevr.render import Rendered, sample_and_render
from filmvqa.clevr.scene_file import Scene
from filmvqa.clevr.scenes import to_scene
from filmvqa.errors import UserError
from filmvqa.files import write_file
from filmvqa.layout import DatasetLayout
from filmvqa.worlds.families import read_families
from filmvqa.worlds.questions import ask_shard
from filmvqa.worlds.schema import encode_json


@contextmanager
def worker_pool(workers: int) -> Iterator[ProcessPoolExecutor]:
    """Worker processes, which all have exited when the context is left; they exit at once, without
    finishing their jobs, if it is left by an exception.

    Raises
    ------
    UserError
        If a worker was killed.
    """
    context = get_context("spawn")
    if get_start_method(allow_none=True) == "loky":  # a job of joblib: new processes know no loky
        set_start_method("spawn", force=True)
    parent_lives, held_by_parent = context.Pipe(duplex=False)
    # Not as a context manager: its second ``shutdown`` would undo the cancelling of the first.
    pool = ProcessPoolExecutor(workers, context, _exit_with_parent, (parent_lives,))
    try:
        yield pool
    except BaseException as error:
        held_by_parent.close()
        pool.shutdown(cancel_futures=True)
        if isinstance(error, BrokenProcessPool):
            raise UserError(
                "a worker process was killed, most likely because memory ran out; run the same "
                "command again with fewer workers=<number>; finished files are kept"
            ) from None
        raise
    else:
        pool.shutdown()
    finally:
        held_by_parent.close()
        parent_lives.close()


def _exit_with_parent(parent_lives: Connection) -> None:
    """Make this worker process exit when its parent closes its end of a pipe, or dies.

    SIGINT (Ctrl-C), SIGTERM (the end of a batch job) and the signals that announce it are sent to
    workers as well as to their parent. The workers ignore them and leave it to the parent when to
    stop. A worker may exit at any moment, since every file is written beside its name and moved
    there when it is whole.
    """
    for name in ("SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"):  # the last two not on Windows
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), signal.SIG_IGN)

    def watch() -> None:
        wait([parent_lives])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def draw_image(settings: GeneratorSettings, split: str, index: int) -> tuple[Scene, Rendered]:
    """Sample and render one image; the result depends only on the settings, split and index.

    Raises
    ------
    UserError
        If the rules cannot be satisfied; see ``sample_and_render``.
    """
    rng = np.random.default_rng([settings.seed, zlib.crc32(split.encode()), index])
    width, height = settings.width, settings.height
    rules = settings.rules.for_split(split)
    layout, rendered = sample_and_render(rng, rules, width, height, settings.rays)
    return to_scene(layout, rules, split, index, width, height), rendered


def draw_chunk(
    layout: DatasetLayout,
    settings: GeneratorSettings,
    split: str,
    indices: list[int],
    chunk: int | None,
) -> int:
    """Draw images and write their scenes to partial file number ``chunk``.

    If ``chunk`` is None, the scenes have been written before, and only images are written.

    Returns
    -------
    int
        Number of images.
    """
    layout.image_folder(split).mkdir(parents=True, exist_ok=True)
    if settings.masks:
        layout.mask_folder(split).mkdir(parents=True, exist_ok=True)
    scenes = []
    for index in indices:
        scene, rendered = draw_image(settings, split, index)
        image = Image.fromarray(rendered.image)
        if settings.rgba:
            image.putalpha(255)
        _write_png(layout.image_folder(split) / scene.image_filename, image)
        if settings.masks:
            mask = Image.fromarray(rendered.mask)
            _write_png(layout.mask_folder(split) / scene.image_filename, mask)
        scenes.append(scene)
    if chunk is not None:
        write_file(layout.partial_json(split, "scenes", chunk), encode_json(scenes))
    return len(indices)


def _write_png(path: Path, image: Image.Image) -> None:
    encoded = io.BytesIO()
    # Level 1 is three times as fast as the default level; the files are a tenth larger.
    image.save(encoded, format="PNG", compress_level=1)
    write_file(path, encoded.getbuffer())


def generate_questions(
    layout: DatasetLayout, settings: GeneratorSettings, split: str, shard: int
) -> int:
    """Generate the questions of one shard and write its partial file.

    Returns
    -------
    int
        Number of questions.
    """
    chunks = chunks_of_shard(shard, settings.images[split])
    questions = ask_shard(
        list(read_partial_scenes(layout, split, chunks)),
        read_families(settings.templates, settings.families),
        settings.questions_per_image,
        f"{settings.seed}/{split}/{shard}",
    )
    write_file(layout.partial_json(split, "questions", shard), encode_json(questions))
    return len(questions)
