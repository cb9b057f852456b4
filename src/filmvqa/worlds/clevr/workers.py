"""What a worker process makes: a chunk of images."""

from __future__ import annotations

import io
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from filmvqa.system.files import write_file
from filmvqa.system.layout import DatasetLayout
from filmvqa.worlds.clevr.generator_settings import GeneratorSettings
from filmvqa.worlds.clevr.render import Rendered, sample_and_render
from filmvqa.worlds.clevr.scene_file import Scene
from filmvqa.worlds.clevr.scenes import to_scene
from filmvqa.worlds.engine.schema import encode_json


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
