"""What tasks whose answers are maps of an image share: targets and intersection over union."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from filmvqa.features.store import FeatureStore, open_feature_store
from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.tasks.protocol import Targets, Task
from filmvqa.tasks.reports import Z95, percent, percent_interval

#: The entry of an index map where no object is, as in the masks of generated sets.
NO_OBJECT = 255


class MapTargets(Targets):
    """Targets made from index maps: which object is at each place of an image.

    Attributes
    ----------
    store
        The index maps (U, 1, h, w), ``NO_OBJECT`` where no object is; ``path`` is the file.

    Raises
    ------
    UserError
        If the file is missing, damaged, or of other images than the questions.
    """

    path: Path
    store: FeatureStore

    @classmethod
    def open(
        cls, layout: DatasetLayout, questions: QuestionDataset, split: str, device: torch.device,
        placement: str,
    ) -> Self:  # fmt: skip
        targets, path = cls(), layout.mask_h5(split)
        targets.path, targets.store = path, open_feature_store(path, device, placement)
        try:
            if (count := targets.store.shape[0]) != 1:
                raise UserError(f"{path}: has {count} maps per image, not one; make it again")
            questions.with_features(targets.store, path)
            targets.prepare(layout.scene_json(split))
        except UserError:
            targets.close()
            raise
        return targets

    def prepare(self, scenes: Path) -> None:
        """Read further files of the targets; ``scenes`` is the split's scene file."""

    def objects(self, images: Tensor) -> Tensor:
        """The index maps (U, h, w) of sorted distinct images (U,), on the device."""
        return self.store.read(images)[:, 0]

    def output_options(self, vocabulary: Vocabulary) -> dict[str, Any]:
        return {"mask_size": list(self.store.shape[1:])}

    def inputs(self) -> dict[str, Any]:
        return {"masks": self.store.sha256}

    def close(self) -> None:
        self.store.close()


class MapTask(Task):
    """A task whose answers are maps (h, w) of small integers.

    Attributes
    ----------
    map_entry, score_entry
        The entries of a prediction for the map and its score.
    """

    metric: ClassVar[str] = "mean_iou"
    prediction_dtype: ClassVar[torch.dtype] = torch.uint8
    map_entry: ClassVar[str]
    score_entry: ClassVar[str]

    @abstractmethod
    def encode(self, one: Tensor) -> dict[str, Any]:
        """Encode a map (h, w) for a prediction's record."""

    def cells(self, row: Any) -> list[str]:
        scores = [percent(row["mean_iou"]), percent_interval(row["interval"])]
        return [*scores, percent(row["overall_iou"])]

    def records(
        self, predictions: Tensor, targets: Tensor | None, vocabulary: Vocabulary
    ) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = [{self.map_entry: self.encode(one)} for one in predictions]
        if targets is not None:
            for record, iou in zip(records, self.scores(predictions, targets), strict=True):
                record[self.score_entry] = float(iou)
        return records


def intersection_over_union(first: Tensor, second: Tensor) -> Tensor:
    """IoU (B,) of masks (B, ...) of 0 and 1; NaN if both are empty."""
    first, second = first.flatten(1).bool(), second.flatten(1).bool()  # (B, h * w)
    return (first & second).sum(1) / (first | second).sum(1)


def mean_iou_row(ious: Tensor, overall: float) -> dict[str, Any]:
    """A row of a report: the mean of IoUs (N,) with its normal 95% interval, and the overall IoU.

    ``overall`` is NaN if it is not defined.
    """
    if not len(ious):
        return {"mean_iou": None, "interval": [0.0, 1.0], "overall_iou": None}
    mean, count = float(ious.double().mean()), len(ious)
    half = Z95 * float(ious.double().std(correction=1)) / count**0.5 if count > 1 else 1.0
    return {
        "mean_iou": mean,
        "interval": [max(0.0, mean - half), min(1.0, mean + half)],
        "overall_iou": None if overall != overall else overall,  # noqa: PLR0124
    }
