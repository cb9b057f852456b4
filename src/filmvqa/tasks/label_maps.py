"""Scores of label maps, and their report."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from filmvqa.system.tables import text_table
from filmvqa.tasks.accuracy import Z95
from filmvqa.tasks.labels import LABELS


def class_ious(predictions: Tensor, truths: Tensor) -> Tensor:
    """IoU (B, K) of each class in label maps (B, h, w); NaN where neither map has the class."""
    from torchmetrics.functional.segmentation import mean_iou  # takes seconds to import

    if not len(truths):
        return torch.empty(0, len(LABELS))
    ious: Tensor = mean_iou(
        predictions.long(), truths.long(), num_classes=len(LABELS), per_class=True,
        input_format="index",
    )  # fmt: skip
    return torch.where(ious < 0, torch.nan, ious)  # torchmetrics: -1 where a class is in neither


def image_ious(predictions: Tensor, truths: Tensor) -> Tensor:
    """Mean IoU (B,) of label maps (B, h, w), over the classes that either map of an image has."""
    return class_ious(predictions, truths).nanmean(1)


def overall_ious(predictions: Tensor, truths: Tensor) -> Tensor:
    """IoU (K,) of each class over all places of all images (N, h, w); NaN for a class that is
    nowhere."""
    if not len(truths):
        return torch.full((len(LABELS),), torch.nan)
    return class_ious(predictions.flatten()[None, :, None], truths.flatten()[None, :, None])[0]


def label_map_report(
    predictions: Tensor, truths: Tensor, num_objects: Tensor | None = None
) -> dict[str, Any]:
    """Rows of scores overall and by number of objects of the image: ``mean_iou``, the mean of the
    images' (``image_ious``) with its 95% interval, and ``overall_iou``, that over all images, which
    ``by_class`` has by class.

    Parameters
    ----------
    predictions, truths
        (N, h, w).
    num_objects
        (N,); None: unknown.
    """
    of_images = image_ious(predictions, truths)

    def row(members: Tensor) -> dict[str, Any]:
        scores, count = of_images[members].double(), int(members.sum())
        if not count:
            return {"mean_iou": None, "interval": [0.0, 1.0], "overall_iou": None, "images": 0}
        mean = float(scores.mean())
        half = Z95 * float(scores.std(correction=1)) / count**0.5 if count > 1 else 1.0
        return {
            "mean_iou": mean,
            "interval": [max(0.0, mean - half), min(1.0, mean + half)],
            "overall_iou": float(overall_ious(predictions[members], truths[members]).nanmean()),
            "images": count,
        }

    ious = overall_ious(predictions, truths).tolist()
    report: dict[str, Any] = {
        "targets": "label_maps",
        "overall": row(torch.ones(len(truths), dtype=torch.bool)),
        "by_class": {
            name: None if iou != iou else iou  # noqa: PLR0124
            for name, iou in zip(LABELS, ious, strict=True)
        },
    }
    if num_objects is not None:
        values = sorted(set(num_objects.tolist()))
        report["by_num_objects"] = {str(n): row(num_objects == n) for n in values}
    return report


def format_label_map_report(report: dict[str, Any], *, objects: bool = False) -> str:
    """The report as a table to print; numbers of objects on request."""
    rows = [["", "mean IoU", "95% interval", "overall IoU", "images"]]
    sections = {"": {"overall": report["overall"]}}
    if objects:
        sections["objects"] = report.get("by_num_objects", {})
    for title, section in sections.items():
        if title and section:
            rows.append([f"{title}:"])
        for name, row in section.items():
            low, high = (100 * bound for bound in row["interval"])
            rows.append([
                f"  {name}" if title else name, _share(row["mean_iou"]),
                f"{low:.1f} to {high:.1f}", _share(row["overall_iou"]), f"{row['images']:,}",
            ])  # fmt: skip
    rows.append(["class:"])
    rows += [[f"  {name}", "", "", _share(iou)] for name, iou in report["by_class"].items()]
    return text_table(rows)


def _share(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.1f}%"


def label_runs(labels: Tensor) -> dict[str, list[Any]]:
    """A label map (h, w) as its size and runs of equal labels, row by row: [label, length]."""
    values, counts = torch.unique_consecutive(labels.flatten(), return_counts=True)
    runs = [list(run) for run in zip(values.tolist(), counts.tolist(), strict=True)]
    return {"size": list(labels.shape), "runs": runs}
