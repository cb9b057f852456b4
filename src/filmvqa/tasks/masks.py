"""Losses and scores of masks, and their report.

An expression that refers to nothing has an empty mask: an empty prediction for it counts as an
intersection over union of 1, any other as 0.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from filmvqa.questions.dataset import QuestionDataset
from filmvqa.system.tables import text_table
from filmvqa.tasks.accuracy import Z95
from filmvqa.worlds.engine.programs import NUMBERS_REFERRED

#: The precisions that are reported are the shares of masks whose IoU is above these.
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """1 minus the Dice coefficient of probabilities and masks (B, h, w), the mean of all images.

    It is that of Milletari et al. (2016) with sums instead of sums of squares, and 1 added to both
    sides of the fraction, so that an empty mask has a gradient.
    """
    probabilities = torch.sigmoid(logits)
    common = (probabilities * masks).sum((1, 2))
    total = probabilities.sum((1, 2)) + masks.sum((1, 2))
    return (1 - (2 * common + 1) / (total + 1)).mean()


def intersection_over_union(predictions: Tensor, masks: Tensor) -> Tensor:
    """IoU (B,) of masks (B, h, w) of 0 and 1; 1 where both are empty."""
    from torchmetrics.functional.segmentation import mean_iou  # takes seconds to import

    if not len(masks):
        return torch.empty(0)
    ious = mean_iou(
        predictions[:, None].long(), masks[:, None].long(), num_classes=1, per_class=True
    )[:, 0]
    return torch.where(ious < 0, 1.0, ious)  # torchmetrics: -1 where both are empty


def number_referred(objects: Tensor) -> Tensor:
    """The index (N,) into ``NUMBERS_REFERRED`` of sets of objects (N,), which are bits."""
    is_several = objects & (objects - 1) != 0
    return (objects != 0).long() + is_several.long()


def mask_report(
    predictions: Tensor,
    masks: Tensor,
    questions: QuestionDataset,
    num_objects: Tensor | None = None,
) -> dict[str, Any]:
    """Rows of scores overall and by group of expressions: ``mean_iou`` with its 95% interval,
    ``overall_iou``, the intersection of all masks over their union, and ``precision`` by threshold.

    ``by_number`` has the numbers of objects referred to, ``by_family``, ``by_program_length`` and
    ``by_num_objects`` are as in ``accuracy_report``.

    Parameters
    ----------
    predictions, masks
        (N, h, w) of 0 and 1, in the order of the file.
    num_objects
        Number of objects (N,) of each expression's image; None: unknown.
    """
    ious = intersection_over_union(predictions, masks)

    def row(members: Tensor) -> dict[str, Any]:
        return _row(ious[members], predictions[members], masks[members])

    report: dict[str, Any] = {
        "targets": "masks",
        "overall": row(torch.ones(len(masks), dtype=torch.bool)),
    }
    if questions.objects is not None:
        numbers = number_referred(questions.objects)
        report["by_number"] = {name: row(numbers == i) for i, name in enumerate(NUMBERS_REFERRED)}
    for key, values in (
        ("by_family", questions.families),
        ("by_program_length", questions.program_lengths),
        ("by_num_objects", num_objects),
    ):
        if values is not None:
            report[key] = {str(v): row(values == v) for v in sorted(set(values.tolist()))}
    return report


def _row(ious: Tensor, predictions: Tensor, masks: Tensor) -> dict[str, Any]:
    from torchmetrics.functional.classification import binary_jaccard_index

    count = len(ious)
    if not count:
        return {"mean_iou": None, "interval": [0.0, 1.0], "overall_iou": None, "precision": {},
                "questions": 0}  # fmt: skip
    mean = float(ious.double().mean())
    half = Z95 * float(ious.double().std(correction=1)) / count**0.5 if count > 1 else 1.0
    overall = None
    if bool((predictions | masks).any()):
        overall = float(binary_jaccard_index(predictions.long(), masks.long()))
    return {
        "mean_iou": mean,
        "interval": [max(0.0, mean - half), min(1.0, mean + half)],
        "overall_iou": overall,
        "precision": {f"{t}": float((ious > t).double().mean()) for t in THRESHOLDS},
        "questions": count,
    }


def format_mask_report(
    report: dict[str, Any], *, families: bool = False, lengths: bool = False, objects: bool = False
) -> str:
    """The report as a table to print; families, program lengths and numbers of objects of the image
    on request."""
    sections = {
        "": {"overall": report["overall"]},
        "objects referred to": report.get("by_number", {}),
        "family": report.get("by_family", {}) if families else {},
        "program length": report.get("by_program_length", {}) if lengths else {},
        "objects": report.get("by_num_objects", {}) if objects else {},
    }
    thresholds = [f"P@{t}" for t in THRESHOLDS]
    rows = [["", "mean IoU", "95% interval", "overall IoU", *thresholds, "expressions"]]
    for title, section in sections.items():
        if title and section:
            rows.append([f"{title}:"])
        for name, row in section.items():
            low, high = (100 * bound for bound in row["interval"])
            precisions = [row["precision"].get(f"{t}") for t in THRESHOLDS]
            rows.append([
                f"  {name}" if title else name, _share(row["mean_iou"]),
                f"{low:.1f} to {high:.1f}", _share(row["overall_iou"]),
                *map(_share, precisions), f"{row['questions']:,}",
            ])  # fmt: skip
    return text_table(rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def run_lengths(mask: Tensor) -> dict[str, list[int]]:
    """A mask (h, w) of 0 and 1 as COCO has it uncompressed: its size, and the lengths of its runs
    of 0 and 1 in turn, column by column, of which the first is of 0."""
    values = mask.T.flatten()
    changes = (values.diff() != 0).nonzero().flatten() + 1
    edges = [0, *changes.tolist(), len(values)]
    counts = [last - first for first, last in pairwise(edges)]
    if len(values) and bool(values[0]):
        counts.insert(0, 0)
    return {"size": list(mask.shape), "counts": counts}
