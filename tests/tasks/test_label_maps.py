"""Scores of label maps against sets of places."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from filmvqa.tasks.label_maps import (
    class_ious,
    format_label_map_report,
    image_ious,
    label_map_report,
    label_runs,
    overall_ious,
)
from filmvqa.tasks.labels import LABELS


def iou(first: Tensor, second: Tensor, label: int) -> float:
    """Of the places of a label, as sets; NaN if there are none."""
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


def test_nothing_to_score() -> None:
    none = torch.empty(0, 3, 3, dtype=torch.int64)
    assert image_ious(none, none).shape == (0,)
    assert overall_ious(none, none).isnan().all()
    report = label_map_report(none, none)
    assert report["overall"]["mean_iou"] is None
    assert "-" in format_label_map_report(report)


def test_the_report_and_its_table() -> None:
    truths = torch.zeros(3, 4, 4, dtype=torch.int64)
    truths[:, :2] = 1
    predictions = truths.clone()
    predictions[2] = 0
    report = label_map_report(predictions, truths, torch.tensor([3, 3, 4]))
    assert report["overall"]["mean_iou"] == pytest.approx((1 + 1 + 0.25) / 3)
    assert report["by_num_objects"]["3"]["mean_iou"] == 1.0
    assert report["by_num_objects"]["4"]["images"] == 1
    assert report["by_class"][LABELS[1]] == pytest.approx(2 / 3)
    assert report["by_class"][LABELS[2]] is None
    assert report["overall"]["overall_iou"] == pytest.approx((24 / 32 + 2 / 3) / 2)
    table = format_label_map_report(report, objects=True)
    assert "75.0%" in table
    assert "objects:" in table
    assert "objects:" not in format_label_map_report(report)
