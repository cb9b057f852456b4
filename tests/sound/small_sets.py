"""Small sets of sounds for the tests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from filmvqa.sound.recording import record
from filmvqa.sound.scenes import SoundScene, sample_scene, scene_generator
from filmvqa.sound.settings import SoundSettings

SETTINGS = SoundSettings(images={"train": 6, "val": 2}, questions_per_image=8)


def recorded(
    index: int, settings: SoundSettings = SETTINGS
) -> tuple[SoundScene, NDArray[np.int16]]:
    """Scene number ``index`` of training, and its recording."""
    rng = scene_generator(settings, "train", index)
    scene = sample_scene(settings, "train", index, rng)
    return scene, record(scene, settings, rng)
