"""Generation of CLEVR sets: the ``Maker`` of this world."""

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
from filmvqa.worlds.clevr.scenes import image_filename, to_scene
from filmvqa.worlds.engine.generate import Maker


def draw_image(settings: GeneratorSettings, split: str, index: int) -> tuple[Scene, Rendered]:
    """Sample and render one image; it depends only on the settings, split and index.

    Raises
    ------
    UserError
        As from ``sample_and_render``.
    """
    rng = np.random.default_rng([settings.seed, zlib.crc32(split.encode()), index])
    width, height = settings.width, settings.height
    rules = settings.rules.for_split(split)
    layout, rendered = sample_and_render(rng, rules, width, height, settings.rays)
    return to_scene(layout, rules, split, index, width, height), rendered


def _draw(layout: DatasetLayout, settings: GeneratorSettings, split: str, index: int) -> Scene:
    scene, rendered = draw_image(settings, split, index)
    image = Image.fromarray(rendered.image)
    if settings.rgba:
        image.putalpha(255)
    _write_png(layout.image_folder(split) / scene.image_filename, image)
    if settings.masks:
        mask = Image.fromarray(rendered.mask)
        _write_png(layout.mask_folder(split) / scene.image_filename, mask)
    return scene


def _write_png(path: Path, image: Image.Image) -> None:
    encoded = io.BytesIO()
    # Level 1 is three times as fast as the default level; the files are a tenth larger.
    image.save(encoded, format="PNG", compress_level=1)
    write_file(path, encoded.getbuffer())


def _folders(layout: DatasetLayout, settings: GeneratorSettings, split: str) -> list[Path]:
    masks = [layout.mask_folder(split)] if settings.masks else []
    return [layout.image_folder(split), *masks]


def _bytes_per_image(settings: GeneratorSettings) -> int:
    return settings.width * settings.height  # measured: 0.5 to 0.9 bytes per pixel


MAKER = Maker(
    "clevr", Scene, _draw, DatasetLayout.under, _folders, image_filename, _bytes_per_image
)
generate = MAKER.generate
