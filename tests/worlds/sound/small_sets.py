"""Small sets of sounds for the tests."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filmvqa.backbones.extraction import Extraction
from filmvqa.backbones.spectrogram_settings import SpectrogramSettings
from filmvqa.backbones.spectrograms import Spectrogram
from filmvqa.questions.preprocess import preprocess_questions
from filmvqa.questions.settings import EncodingSettings
from filmvqa.system.layout import DatasetLayout
from filmvqa.worlds.sound.generate import generate, layout_under
from filmvqa.worlds.sound.recording import record
from filmvqa.worlds.sound.scenes import SOUND, SoundScene, sample_scene, scene_generator
from filmvqa.worlds.sound.settings import SoundSettings

SETTINGS = SoundSettings(images={"train": 6, "val": 2}, questions_per_image=8)
FRONT_END = SpectrogramSettings(22_050)
SIZE = (64, 256)


def make_set(root: Path) -> DatasetLayout:
    """A set after generation, preprocessing and extraction."""
    assert generate(root, SETTINGS, 1)
    layout = replace(layout_under(root), backbone="spectrogram")
    # The few training questions do not contain every answer and every step.
    train_tokens = {token for q in read(layout, "train")["questions"] for token in tokens(q)}
    source = read(layout, "val")
    source["questions"] = [q for q in source["questions"] if tokens(q) <= train_tokens]
    assert len(source["questions"]) >= 4
    layout.question_json("val").write_text(json.dumps(source))
    preprocess_questions(layout, EncodingSettings(allow_unknown=True), world=SOUND)
    for split in ("train", "val"):
        folder, target = layout.image_folder(split), layout.feature_h5(split)
        Extraction(folder, target, split, Spectrogram(FRONT_END), SIZE).run()
    return layout


def read(layout: DatasetLayout, split: str) -> dict[str, Any]:
    return json.loads(layout.question_json(split).read_text())


def tokens(question: dict[str, Any]) -> set[str]:
    steps = {f"{s['function']} {s['value_inputs']}" for s in question["program"]}
    return {question["answer"], *steps}


def sounds_of(index: int, settings: SoundSettings = SETTINGS) -> SoundScene:
    """Training scene number ``index``."""
    return sample_scene(settings, "train", index, scene_generator(settings, "train", index))


def recorded(index: int) -> tuple[SoundScene, NDArray[np.int16]]:
    """Training scene number ``index`` and its recording."""
    rng = scene_generator(SETTINGS, "train", index)
    scene = sample_scene(SETTINGS, "train", index, rng)
    return scene, record(scene, SETTINGS, rng)
