"""Generation of sets of sounds: the machinery of ``worlds.engine.generate`` for this world."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from filmvqa.features.wav import write_wav
from filmvqa.system.files import write_file
from filmvqa.system.layout import DatasetLayout
from filmvqa.worlds.engine import generate as machinery
from filmvqa.worlds.engine.maker import Maker
from filmvqa.worlds.engine.schema import encode_json
from filmvqa.worlds.sound.recording import record
from filmvqa.worlds.sound.scenes import SoundScene, file_name, sample_scene, scene_generator
from filmvqa.worlds.sound.settings import SoundSettings


def draw_chunk(
    layout: DatasetLayout,
    settings: SoundSettings,
    split: str,
    indices: list[int],
    chunk: int | None,
) -> int:
    """Record scenes, and write them to partial file number ``chunk``; if that is None, they have
    been written before. Returns the number of scenes."""
    layout.image_folder(split).mkdir(parents=True, exist_ok=True)
    scenes = []
    for index in indices:
        rng = scene_generator(settings, split, index)
        scene = sample_scene(settings, split, index, rng)
        samples = record(scene, settings, rng)
        write_wav(layout.image_folder(split) / scene.image_filename, samples, settings.sample_rate)
        scenes.append(scene)
    if chunk is not None:
        write_file(layout.partial_json(split, "scenes", chunk), encode_json(scenes))
    return len(indices)


def layout_under(root: str | Path) -> DatasetLayout:
    """The layout of a set of sounds below a folder."""
    return DatasetLayout.under(root, images=Path(root) / "sounds", prefix="SOUND")


def _folders(layout: DatasetLayout, settings: SoundSettings, split: str) -> list[Path]:
    return [layout.image_folder(split)]


def _bytes_per_scene(settings: SoundSettings) -> int:
    return round(2 * settings.rules.seconds * settings.sample_rate) + 44


MAKER = Maker(
    "sound", SoundScene, draw_chunk, layout_under, _folders, file_name, _bytes_per_scene, "scenes"
)
generate = partial(machinery.generate, MAKER)
generate_part = partial(machinery.generate_part, MAKER)
merge_parts = partial(machinery.merge_parts, MAKER)
