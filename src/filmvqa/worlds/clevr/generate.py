"""Generation of CLEVR sets: the machinery of ``worlds.engine.generate`` for this world."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from filmvqa.system.layout import DatasetLayout
from filmvqa.worlds.clevr.generator_settings import GeneratorSettings
from filmvqa.worlds.clevr.scene_file import Scene
from filmvqa.worlds.clevr.scenes import image_filename
from filmvqa.worlds.clevr.workers import draw_chunk
from filmvqa.worlds.engine import generate as machinery
from filmvqa.worlds.engine.maker import Maker

#: Upper estimate of the size of a PNG file (measured: 0.5 to 0.9).
BYTES_PER_PIXEL = 1


def _folders(layout: DatasetLayout, settings: GeneratorSettings, split: str) -> list[Path]:
    masks = [layout.mask_folder(split)] if settings.masks else []
    return [layout.image_folder(split), *masks]


def _bytes_per_image(settings: GeneratorSettings) -> int:
    return settings.width * settings.height * BYTES_PER_PIXEL


MAKER = Maker(
    "clevr", Scene, draw_chunk, DatasetLayout.under, _folders, image_filename, _bytes_per_image
)
generate = partial(machinery.generate, MAKER)
generate_part = partial(machinery.generate_part, MAKER)
merge_parts = partial(machinery.merge_parts, MAKER)
