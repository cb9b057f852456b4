"""Label maps made from masks and scenes, and their scores compared with sets of places."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from filmvqa.evaluation.batches import Loader, open_loader
from filmvqa.questions.dataset import QuestionGroups
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.tasks.label_maps import (
    BACKGROUND,
    LABELS,
    LabelMapTargets,
    LabelMapTask,
    class_ious,
    image_ious,
    label_runs,
    overall_ious,
)
from filmvqa.tasks.maps import NO_OBJECT
from filmvqa.worlds.clevr.scene_file import MATERIALS, SHAPES, read_scenes

GROUPS = QuestionGroups(types=None, families=None, program_lengths=None)


def iou(first: Tensor, second: Tensor, label: int) -> float:
    """IoU of a label's places as sets; NaN if there are none."""
    a = {i for i, value in enumerate(first.flatten().tolist()) if value == label}
    b = {i for i, value in enumerate(second.flatten().tolist()) if value == label}
    return len(a & b) / len(a | b) if a | b else math.nan


@given(
    count=st.integers(1, 4), height=st.integers(1, 5), width=st.integers(1, 5),
    labels=st.integers(1, len(LABELS)), seed=st.integers(0, 1000),
)  # fmt: skip
def test_scores_against_sets(count: int, height: int, width: int, labels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    first, second = (
        torch.randint(labels, (count, height, width), generator=generator) for _ in range(2)
    )
    expected = [
        [iou(a, b, k) for k in range(len(LABELS))] for a, b in zip(first, second, strict=True)
    ]
    assert torch.allclose(class_ious(first, second), torch.tensor(expected), equal_nan=True)
    known = [[value for value in row if not math.isnan(value)] for row in expected]
    means = [sum(row) / len(row) for row in known]
    assert image_ious(first, second).tolist() == pytest.approx(means, rel=1e-5)
    assert (image_ious(first, first) == 1).all()
    overall = [iou(first, second, k) for k in range(len(LABELS))]
    assert overall_ious(first, second).tolist() == pytest.approx(overall, nan_ok=True)
    runs = label_runs(first[0])
    assert runs["size"] == [height, width]
    drawn = [label for label, length in runs["runs"] for _ in range(length)]
    assert drawn == first[0].flatten().tolist()


def test_no_maps_have_no_scores() -> None:
    none = torch.empty(0, 3, 3, dtype=torch.int64)
    assert image_ious(none, none).shape == (0,)
    assert overall_ious(none, none).isnan().all()
    report = LabelMapTask().report(none, none, GROUPS)
    assert report["overall"]["mean_iou"] is None
    assert "-" in LabelMapTask().format_report(report)


def test_the_report_and_its_table() -> None:
    truths = torch.zeros(3, 4, 4, dtype=torch.int64)
    truths[:, :2] = 1
    predictions = truths.clone()
    predictions[2] = 0
    report = LabelMapTask().report(
        predictions, truths, replace(GROUPS, num_objects=torch.tensor([3, 3, 4]))
    )
    assert report["overall"]["mean_iou"] == pytest.approx((1 + 1 + 0.25) / 3)
    assert report["by_num_objects"]["3"]["mean_iou"] == 1.0
    assert report["by_num_objects"]["4"]["images"] == 1
    assert report["by_class"][LABELS[1]] == pytest.approx(2 / 3)
    assert report["by_class"][LABELS[2]] is None
    assert report["overall"]["overall_iou"] == pytest.approx((24 / 32 + 2 / 3) / 2)
    table = LabelMapTask().format_report(report, objects=True)
    assert "75.0%" in table
    assert "objects:" in table
    assert "objects:" not in LabelMapTask().format_report(report)


def test_labels_have_the_order_of_trained_checkpoints() -> None:
    assert ("background", *(f"{m} {s}" for m in MATERIALS for s in SHAPES)) == LABELS
    assert len(LABELS) == 7


def open_label_maps(root: Path, h5: Path, store: str = "auto") -> Loader:
    """Open the label maps of a set whose scenes are in ``root``."""
    layout, cpu = DatasetLayout.under(root, h5=h5, backbone="clevr_cnn"), torch.device("cpu")
    vocabulary = Vocabulary.load(layout.vocabulary)
    return open_loader(layout, "val", vocabulary, 16, cpu, store, targets="label_maps")


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
        labels = {i: LABELS.index(f"{o.material} {o.shape}") for i, o in enumerate(scenes[image])}
        labels[NO_OBJECT] = BACKGROUND
        assert np.array_equal(target.numpy(), np.vectorize(labels.get)(objects[image]))
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
