"""Label maps of images as targets, from masks and scenes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from filmvqa.evaluation.batches import Loader, open_loader
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.tasks.label_targets import LabelMapTargets
from filmvqa.tasks.labels import LABELS, label_map, label_of
from filmvqa.worlds.clevr.scene_file import read_scenes


def open_label_maps(root: Path, h5: Path, store: str = "auto") -> Loader:
    layout = DatasetLayout.under(root, h5=h5, backbone="clevr_cnn")
    vocabulary = Vocabulary.load(h5 / "vocab.json")
    return open_loader(
        layout, "val", vocabulary, 16, torch.device("cpu"), store, targets="label_maps"
    )


@pytest.mark.parametrize("store", ["auto", "stream"])
def test_labels_are_those_of_the_scenes_objects(
    referring_world: Path, referring_set: Path, store: str
) -> None:
    path = DatasetLayout.under(referring_world).scene_json("val")
    scenes = {scene.image_index: scene.objects for scene in read_scenes(path).scenes}
    loader = open_label_maps(referring_world, referring_set, store)
    assert isinstance(loader.targets, LabelMapTargets)
    assert loader.targets.output_options(Vocabulary.load(referring_set / "vocab.json")) == {
        "mask_size": [12, 12], "num_maps": len(LABELS),
    }  # fmt: skip
    rows = torch.randperm(len(loader.questions), generator=torch.Generator().manual_seed(0))[:30]
    batch = loader.batch(rows)
    images = torch.unique(loader.questions.images[rows])
    objects = dict(zip(images.tolist(), loader.targets.objects(images).numpy(), strict=True))
    assert batch.targets is not None
    for target, image in zip(batch.targets, loader.questions.images[rows].tolist(), strict=True):
        labels = [label_of(scene_object, path) for scene_object in scenes[image]]
        assert np.array_equal(target.numpy(), label_map(objects[image], labels))
        assert set(np.unique(target)) - {0} == {
            labels[i] for i in np.unique(objects[image]) if i != 255
        }
    loader.close()


def cone(content: Any) -> None:
    content["scenes"][4]["objects"][0]["shape"] = "cone"


def fewer_objects(content: Any) -> None:
    scene = content["scenes"][3]
    scene["objects"] = scene["objects"][:1]
    scene["relationships"] = {name: [[]] for name in scene["relationships"]}


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda content: content["scenes"].pop(2), r"scenes\.json: has no scene of image 2"),
        (cone, r"scenes\.json: a \w+ cone is none of the classes"),
        (fewer_objects, r"val_masks\.h5: image 3 shows an object that its scene .* does not have"),
    ],
)
def test_scenes_that_do_not_fit_are_refused(
    harm: Callable[[Any], Any], message: str, referring_world: Path, referring_set: Path,
    tmp_path: Path,
) -> None:  # fmt: skip
    source = DatasetLayout.under(referring_world).scene_json("val")
    shutil.copytree(source.parent, tmp_path / "scenes")
    content = json.loads(source.read_text())
    harm(content)
    (tmp_path / "scenes" / source.name).write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        open_label_maps(tmp_path, referring_set)


def test_a_set_without_scenes_is_refused(referring_set: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"CLEVR_val_scenes\.json"):
        open_label_maps(tmp_path, referring_set)
