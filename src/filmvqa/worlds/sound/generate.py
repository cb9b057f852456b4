"""Generation of sets of sounds: the ``Maker`` of this world."""

from __future__ import annotations

from pathlib import Path

from filmvqa.features.wav import write_wav
from filmvqa.system.layout import DatasetLayout
from filmvqa.worlds.engine.generate import Maker
from filmvqa.worlds.sound.recording import record
from filmvqa.worlds.sound.scenes import SoundScene, file_name, sample_scene, scene_generator
from filmvqa.worlds.sound.settings import SoundSettings


def _draw(layout: DatasetLayout, settings: SoundSettings, split: str, index: int) -> SoundScene:
    rng = scene_generator(settings, split, index)
    scene = sample_scene(settings, split, index, rng)
    samples = record(scene, settings, rng)
    write_wav(layout.image_folder(split) / scene.image_filename, samples, settings.sample_rate)
    return scene


def layout_under(root: str | Path) -> DatasetLayout:
    """The layout of a set of sounds in a folder."""
    return DatasetLayout.under(root, images=Path(root) / "sounds", prefix="SOUND")


def _folders(layout: DatasetLayout, settings: SoundSettings, split: str) -> list[Path]:
    return [layout.image_folder(split)]


def _bytes_per_scene(settings: SoundSettings) -> int:
    return round(2 * settings.rules.seconds * settings.sample_rate) + 44


MAKER = Maker(
    "sound", SoundScene, _draw, layout_under, _folders, file_name, _bytes_per_scene, "scenes"
)
generate = MAKER.generate
