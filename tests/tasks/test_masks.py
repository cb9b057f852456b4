"""Masks of expressions: targets from generated masks, and scores compared with NumPy."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from filmvqa.backbones.extraction import Extraction
from filmvqa.backbones.object_masks import ObjectMasks
from filmvqa.questions.preprocess import preprocess_questions
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.studies.sheets import mask_of
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.tasks.masks import (
    THRESHOLDS,
    MaskTask,
    RunLengths,
    dice_loss,
    number_referred,
    run_lengths,
)
from filmvqa.worlds.engine.schema import read_questions
from tests.conftest import examples
from tests.training.tiny_runs import loader_of

TASK = MaskTask()
MASKS = st.integers(1, 6).flatmap(
    lambda n: st.tuples(*[arrays(np.uint8, (n, 4, 3), elements=st.integers(0, 1))] * 2)
)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    union = (a | b).sum()
    return 1.0 if union == 0 else (a & b).sum() / union


@examples(50)
@given(MASKS)
def test_scores_are_numpys(masks: tuple[np.ndarray, np.ndarray]) -> None:
    predicted, true = masks
    tensors = torch.from_numpy(predicted), torch.from_numpy(true)
    expected = [iou(a, b) for a, b in zip(predicted, true, strict=True)]
    assert TASK.scores(*tensors).tolist() == pytest.approx(expected)
    questions = SimpleNamespace(
        objects=torch.arange(len(true)), program_lengths=torch.ones(len(true)), families=None,
        num_objects=None, groups=None,
    )  # fmt: skip
    report = TASK.report(*tensors, questions)
    row = report["overall"]
    assert row["mean_iou"] == pytest.approx(np.mean(expected))
    union = (predicted | true).sum()
    overall = pytest.approx((predicted & true).sum() / union) if union else None
    assert row["overall_iou"] == overall
    for threshold in THRESHOLDS:
        share = np.mean([np.float32(e) > np.float32(threshold) for e in expected])
        assert row["precision"][str(threshold)] == pytest.approx(share)
    if len(expected) > 1:
        low, high = row["interval"]
        half = 1.959964 * np.std(expected, ddof=1) / math.sqrt(len(expected))
        assert low == pytest.approx(max(0, np.mean(expected) - half), abs=1e-6)
        assert high == pytest.approx(min(1, np.mean(expected) + half), abs=1e-6)
    assert report["by_program_length"] == {"1.0": row}
    groups = report["by_number"]
    assert sum(group["questions"] for group in groups.values()) == len(true)
    assert "mean IoU" in TASK.format_report(report, lengths=True)


def test_only_an_empty_mask_is_right_for_nothing() -> None:
    empty, full = torch.zeros(1, 4, 4), torch.ones(1, 4, 4)
    predictions, targets = torch.cat([empty, full, empty]), torch.cat([empty, empty, full])
    assert TASK.scores(predictions, targets).tolist() == [1, 0, 0]
    assert len(TASK.scores(empty[:0], empty[:0])) == 0


def test_numbers_of_objects() -> None:
    sets = torch.tensor([0, 1, 2, 3, 4, 12, 1 << 62, (1 << 62) + 1])
    assert number_referred(sets).tolist() == [0, 1, 1, 2, 1, 2, 1, 2]


@examples(50)
@given(arrays(np.bool_, st.tuples(st.integers(1, 6), st.integers(1, 6))))
def test_run_lengths_are_those_of_coco(mask: np.ndarray) -> None:
    record = run_lengths(torch.from_numpy(mask))
    counts = record["counts"]
    assert sum(counts) == mask.size
    assert all(count > 0 for count in counts[1:])
    values = [i % 2 == 1 for i, count in enumerate(counts) for _ in range(count)]
    assert values == mask.T.flatten().tolist()  # column by column, as in pycocotools
    assert np.array_equal(mask_of(RunLengths(tuple(record["size"]), counts)), mask)


def test_the_loss_is_cross_entropy_and_dice() -> None:
    rng = np.random.default_rng(0)
    logits, masks = rng.normal(size=(5, 6, 7)), rng.integers(0, 2, (5, 6, 7))
    masks[2] = 0
    p = 1 / (1 + np.exp(-logits))
    bce = -(masks * np.log(p) + (1 - masks) * np.log(1 - p)).mean()
    dice = np.mean([
        1 - (2 * (a * b).sum() + 1) / (a.sum() + b.sum() + 1)
        for a, b in zip(p, masks, strict=True)
    ])  # fmt: skip
    output, targets = torch.from_numpy(logits), torch.from_numpy(masks.astype(np.uint8))
    assert float(dice_loss(output, targets.double())) == pytest.approx(dice)
    task = MaskTask(bce_weight=0.5, dice_weight=2.0)
    assert float(task.loss(output, targets)) == pytest.approx(0.5 * bce + 2 * dice, rel=1e-5)
    predicted = task.predictions(output)
    assert predicted.dtype == torch.uint8
    assert np.array_equal(predicted.numpy(), (p > 0.5).astype(np.uint8))


@pytest.mark.parametrize("store", ["auto", "stream"])
def test_targets_are_the_masks_of_the_expressions_objects(
    referring_world: Path, referring_set: Path, store: str
) -> None:
    layout = DatasetLayout.under(referring_world)
    expressions = read_questions(layout.question_json("val")).questions
    loader = loader_of(referring_set, "val", store=store, targets="masks")
    rows = torch.randperm(len(expressions), generator=torch.Generator().manual_seed(0))[:40]
    batch = loader.batch(rows)
    assert batch.targets is not None
    assert torch.equal(batch.targets, loader.read_targets(rows))
    for target, row in zip(batch.targets, rows.tolist(), strict=True):
        expression = expressions[row]
        path = layout.mask_folder("val") / expression.image_filename
        # Each place is the pixel in its middle, computed without Pillow's resizing.
        places = np.asarray(Image.open(path))[2::4, 2::4]
        assert places.shape == (12, 12)
        expected = np.isin(places, expression.objects)
        assert np.array_equal(target.numpy(), expected.astype(np.uint8))
    assert {int(t.max()) for t in batch.targets} == {0, 1}
    loader.close()


def test_expressions_have_objects_and_no_answers(referring_set: Path) -> None:
    loader = loader_of(referring_set, "val", targets="masks")
    assert loader.questions.answers is None
    assert loader.questions.objects is not None
    assert (loader.questions.types == -1).all()  # none of CLEVR's five
    assert loader.questions.program_lengths is not None
    assert loader.questions.program_lengths.min() >= 2
    assert loader.targets.output_options(Vocabulary.load(referring_set / "vocab.json")) == {
        "mask_size": [12, 12]
    }
    with h5py.File(referring_set / "val_questions.h5") as file:
        assert file["objects"].dtype == np.int64
        names = list(file.attrs["type_names"])
        assert {"unique", "union", "relate", "filter_color"} <= {str(name) for name in names}
    loader.close()


def flip_bit(masks: Path) -> None:
    with h5py.File(masks, "r+") as file:
        file["features"][3, 0, 5, 5] ^= 1


def replace_by(name: str) -> Callable[[Path], object]:
    return lambda masks: shutil.copy(masks.with_name(name), masks)


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (Path.unlink, r"val_masks\.h5: no such file.*extract_features"),
        (replace_by("train_masks.h5"), r"its images are not those of .*val_masks\.h5"),
        (flip_bit, r"val_masks\.h5.*image 3"),
        (replace_by("val_features_clevr_cnn.h5"), r"val_masks\.h5: has 96 maps per image, not one"),
    ],
)
def test_masks_that_do_not_fit_are_refused(
    harm: Callable[[Path], object], message: str, referring_set: Path, tmp_path: Path
) -> None:
    shutil.copytree(referring_set, tmp_path / "h5")
    harm(tmp_path / "h5/val_masks.h5")
    with pytest.raises(UserError, match=message):
        loader_of(tmp_path / "h5", "val", targets="masks")


def test_pictures_are_no_masks(referring_world: Path, tmp_path: Path) -> None:
    images = DatasetLayout.under(referring_world).image_folder("val")
    with pytest.raises(UserError, match="not a mask of 8 bits grey"):
        Extraction(images, tmp_path / "x.h5", "val", ObjectMasks(), (12, 12))


@pytest.mark.parametrize(
    ("source", "change", "message"),
    [
        ("referring_world", {"objects": [0, 0]}, r"question 2: has the objects \[0, 0\]"),
        ("referring_world", {"objects": [-1]}, r"question 2: has the objects \[-1\]"),
        ("referring_world", {"objects": [63]}, r"question 2: has the objects \[63\]"),
        ("referring_world", {"objects": "all"}, r"questions\[2\]"),
        ("referring_world", {"objects": None, "answer": "yes"}, "ends in .*gives no answer"),
        ("tiny_world", {"objects": [0]}, r"question 2: its program ends in .*gives no objects"),
    ],
)
def test_expressions_that_make_no_sense_are_named(
    source: str, change: dict, message: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    path = DatasetLayout.under(request.getfixturevalue(source)).question_json("val")
    content = json.loads(path.read_bytes())
    content["questions"][2] |= change
    layout = DatasetLayout.under(tmp_path)
    layout.questions.mkdir()
    layout.question_json("train").write_text(json.dumps(content))
    with pytest.raises(UserError, match=message):
        preprocess_questions(layout)
