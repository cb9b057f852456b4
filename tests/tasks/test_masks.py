"""Scores of masks against plain NumPy."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from filmvqa.studies.sheets import mask_of
from filmvqa.tasks.masks import (
    THRESHOLDS,
    dice_loss,
    format_mask_report,
    intersection_over_union,
    mask_report,
    number_referred,
    run_lengths,
)
from filmvqa.tasks.objectives import MaskObjective
from filmvqa.tasks.records import RunLengths
from tests.conftest import examples

pytestmark = pytest.mark.hypothesis
MASKS = st.integers(1, 6).flatmap(
    lambda n: st.tuples(*[arrays(np.uint8, (n, 4, 3), elements=st.integers(0, 1))] * 2)
)


def iou(a: np.ndarray, b: np.ndarray) -> float:
    union = (a | b).sum()
    return 1.0 if union == 0 else (a & b).sum() / union


@examples(50)
@given(MASKS)
def test_scores_are_numpys(masks: tuple[np.ndarray, np.ndarray]) -> None:
    given_masks, true = masks
    expected = [iou(a, b) for a, b in zip(given_masks, true, strict=True)]
    given_tensor, true_tensor = torch.from_numpy(given_masks), torch.from_numpy(true)
    assert intersection_over_union(given_tensor, true_tensor).tolist() == pytest.approx(expected)
    questions = SimpleNamespace(
        objects=torch.arange(len(true)), families=None, program_lengths=torch.ones(len(true))
    )
    report = mask_report(given_tensor, true_tensor, questions)
    row = report["overall"]
    assert row["mean_iou"] == pytest.approx(np.mean(expected))
    union = (given_masks | true).sum()
    if union:
        assert row["overall_iou"] == pytest.approx((given_masks & true).sum() / union)
    else:
        assert row["overall_iou"] is None
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
    assert "mean IoU" in format_mask_report(report, lengths=True)


def test_an_empty_mask_for_nothing_is_right_and_any_other_wrong() -> None:
    nothing, something = torch.zeros(1, 4, 4), torch.zeros(1, 4, 4)
    something[0, 1, 1] = 1
    assert intersection_over_union(nothing, nothing).tolist() == [1]
    assert intersection_over_union(something, nothing).tolist() == [0]
    assert intersection_over_union(nothing, something).tolist() == [0]
    assert len(intersection_over_union(nothing[:0], nothing[:0])) == 0


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
    objective = MaskObjective(bce_weight=0.5, dice_weight=2.0)
    assert float(objective.loss(output, targets)) == pytest.approx(0.5 * bce + 2 * dice, rel=1e-5)
    given_masks = objective.predictions(output)
    assert given_masks.dtype == torch.uint8
    assert np.array_equal(given_masks.numpy(), (p > 0.5).astype(np.uint8))
