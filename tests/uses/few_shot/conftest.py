"""Random scenes, whose features say what is at each place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from filmvqa.questions.settings import BackboneSettings, DataSettings
from filmvqa.system.layout import DatasetLayout
from filmvqa.uses.few_shot.settings import FewShotSettings
from filmvqa.worlds.clevr.scene_file import ATTRIBUTES

PLACES = ((0, 0), (0, 2), (2, 0), (2, 2))


def write_pictures(layout: DatasetLayout, split: str, count: int, seed: int) -> None:
    """Scenes of three or four objects, and features (15, 4, 4) with one object's values at a place."""
    generator = np.random.default_rng(seed)
    values = [(name, value) for name, all_of in ATTRIBUTES.items() for value in all_of]
    features = np.zeros((count, len(values), 4, 4), np.float32)
    scenes = []
    for image in range(count):
        objects = []
        for y, x in PLACES[: generator.integers(3, 5)]:
            thing = {name: str(generator.choice(all_of)) for name, all_of in ATTRIBUTES.items()}
            for item in thing.items():
                features[image, values.index(item), y, x] = 1.0
            objects.append({**thing, "rotation": 0.0, "3d_coords": [0, 0, 0],
                            "pixel_coords": [x, y, 1.0]})  # fmt: skip
        scenes.append({
            "image_index": image, "image_filename": f"CLEVR_{split}_{image:06d}.png",
            "split": split, "objects": objects, "directions": {},
            "relationships": {name: [[] for _ in objects]
                              for name in ("left", "right", "behind", "front")},
        })  # fmt: skip
    path = layout.scene_json(split)
    path.parent.mkdir(parents=True, exist_ok=True)
    info = {"split": split, "license": "", "version": "1.0", "date": ""}
    path.write_text(json.dumps({"info": info, "scenes": scenes}))
    layout.h5.mkdir(exist_ok=True)
    with h5py.File(layout.feature_h5(split), "w") as file:
        file["features"] = features


@pytest.fixture(scope="session")
def picture_set(tmp_path_factory: pytest.TempPathFactory) -> DatasetLayout:
    """400 training and 300 test pictures. Read only."""
    layout = DatasetLayout.under(tmp_path_factory.mktemp("few_shot"), backbone="clevr_cnn")
    write_pictures(layout, "train", 400, 1)
    write_pictures(layout, "val", 300, 2)
    return layout


def settings_for(layout: DatasetLayout, output: Path, **options: Any) -> FewShotSettings:
    data = DataSettings(
        name="x", root=str(layout.root), images=str(layout.images), h5=str(layout.h5),
        features=str(layout.features), backbone=BackboneSettings("clevr_cnn"),
    )  # fmt: skip
    small = {
        "learners": ["film", "logistic_regression"],
        "widths": [8],
        "steps": 3,
        "word_steps": 5,
        "episodes": 90,
    }
    return FewShotSettings(data=data, output=str(output), **{**small, **options})
