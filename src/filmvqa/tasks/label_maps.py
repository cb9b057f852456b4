"""Label maps: the class of what each place of an image shows, a material and a shape."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from itertools import product
from pathlib import Path
from typing import Any, ClassVar

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from filmvqa.questions.dataset import QuestionDataset, QuestionGroups
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.devices import at_least_float32, to_device
from filmvqa.system.errors import UserError
from filmvqa.tasks.maps import (
    NO_OBJECT,
    MapTargets,
    MapTask,
    intersection_over_union,
    mean_iou_row,
)
from filmvqa.tasks.protocol import Answer, Prediction, Targets, register_task
from filmvqa.tasks.reports import percent, percent_interval, rows_by_group
from filmvqa.worlds.engine.schema import read_scene_objects
from filmvqa.worlds.engine.world import CLEVR

#: The attributes of an object that make its class.
CLASS_ATTRIBUTES = ("material", "shape")
#: The label of places without an object.
BACKGROUND = 0
#: The names of the labels; those of objects are a material and a shape.
LABELS = (
    "background",
    *map(" ".join, product(*(CLEVR.attributes[name] for name in CLASS_ATTRIBUTES))),
)
#: Stands in the table of labels for objects that a scene does not have.
_ABSENT = 255


def label_of(attributes: Mapping[str, Any], path: str | Path) -> int:
    """The label of an object with some attributes.

    Raises
    ------
    UserError
        For a shape or material that CLEVR does not have; ``path`` is the scenes' file.
    """
    name = " ".join(str(attributes.get(attribute)) for attribute in CLASS_ATTRIBUTES)
    if name not in LABELS[1:]:
        raise UserError(
            f"{path}: a {name} is none of the classes {', '.join(LABELS[1:])}; use scenes of CLEVR"
        )
    return LABELS.index(name)


class LabelMapTargets(MapTargets):
    """The label of each place, int64 (B, h, w), whatever is asked about the image.

    Raises
    ------
    UserError
        For an image without a scene, or with an object that its scene does not have or that has no
        class.
    """

    noun: ClassVar[str] = "label maps"

    def prepare(self, scenes: Path) -> None:
        indices = self.store.image_idxs.tolist()
        table = torch.full((max(indices, default=-1) + 1, NO_OBJECT + 1), _ABSENT).to(torch.uint8)
        table[:, NO_OBJECT] = BACKGROUND
        objects = read_scene_objects(scenes)
        for image in indices:
            if image not in objects:
                raise UserError(
                    f"{scenes}: has no scene of image {image}; add it, or make it again"
                )
            labels = [label_of(attributes, scenes) for attributes in objects[image]]
            table[image, : len(labels)] = torch.tensor(labels, dtype=torch.uint8)
        self._table = to_device(table, self.store.device)  # (images, 256)
        self._check(scenes)

    def _check(self, scenes: Path) -> None:
        """Raise ``UserError`` if a map shows an object that its scene does not have."""
        images = torch.from_numpy(self.store.image_idxs.astype("int64"))
        for first in range(0, len(images), 1024):
            some = images[first : first + 1024]
            wrong = (self.maps(some) == _ABSENT).flatten(1).any(1)
            if bool(wrong.any()):
                image = int(some[int(wrong.int().argmax())])
                raise UserError(
                    f"{self.path}: image {image} shows an object that its scene in {scenes} does "
                    "not have; make both again"
                )

    def maps(self, images: Tensor) -> Tensor:
        """The label maps (U, h, w), uint8 on the device, of sorted distinct images (U,)."""
        shown = self.objects(images)
        tables = self._table[to_device(images, self.store.device)]  # (U, 256)
        return tables.gather(1, shown.flatten(1).long()).view(shown.shape)

    def known(self, questions: QuestionDataset) -> bool:
        return True

    def read(
        self, questions: QuestionDataset, rows: Tensor, images: Tensor, image_of_question: Tensor
    ) -> Tensor | None:
        return self.maps(images)[to_device(image_of_question, self.store.device)].long()

    def output_options(self, vocabulary: Vocabulary) -> dict[str, Any]:
        return {**super().output_options(vocabulary), "num_maps": len(LABELS)}

    def inputs(self) -> dict[str, Any]:
        labels = hashlib.sha256(self._table.cpu().numpy().tobytes()).hexdigest()
        return {**super().inputs(), "labels": labels}


class LabelRuns(msgspec.Struct):
    """A label map as its size and runs of equal labels, row by row: [label, length]."""

    size: tuple[int, int]
    runs: list[tuple[int, int]]


class LabelMapPrediction(Prediction, kw_only=True):
    """A label map, and its mean intersection over union with the true one."""

    labels: LabelRuns
    mean_iou: float | None = None

    @property
    def score(self) -> float | None:
        return self.mean_iou


@register_task("label_maps")
class LabelMapTask(MapTask):
    """Segmentation by class: cross-entropy of logits (B, K, h, w), and the mean intersection over
    union of the likeliest labels, as ``image_ious`` defines it."""

    prediction: ClassVar[type[Prediction]] = LabelMapPrediction
    targets: ClassVar[type[Targets]] = LabelMapTargets
    map_entry: ClassVar[str] = "labels"
    score_entry: ClassVar[str] = "mean_iou"
    columns = ("mean IoU", "95% interval", "overall IoU", "images")
    unit: ClassVar[str] = "images"
    does = "segments pictures by material and shape, and takes hints in English"
    gives = "a label map"
    scored_as = "Mean intersection over union in percent with its 95% interval, on images that " \
        "it was not trained on."  # fmt: skip

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(at_least_float32(output), targets)

    def predictions(self, output: Tensor) -> Tensor:
        return output.argmax(1).to(torch.uint8)

    def scores(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return image_ious(predictions, targets)

    def report(
        self, predictions: Tensor, targets: Tensor, questions: QuestionGroups
    ) -> dict[str, Any]:
        """Rows of scores overall and by number of objects of the image: ``mean_iou``, the mean of
        the images' (``image_ious``) with its 95% interval, and ``overall_iou``, that over all
        images, which ``by_class`` has by class."""
        of_images = image_ious(predictions, targets)

        def row(members: Tensor) -> dict[str, Any]:
            overall = overall_ious(predictions[members], targets[members]).nanmean()
            scores = of_images[members]
            return {**mean_iou_row(scores, float(overall)), "images": len(scores)}

        by_class = overall_ious(predictions, targets)
        return {
            "targets": self.name,
            "overall": row(torch.ones(len(targets), dtype=torch.bool)),
            "by_class": {
                name: None if iou.isnan() else float(iou)
                for name, iou in zip(LABELS, by_class, strict=True)
            },
            **rows_by_group(row, questions, ("by_num_objects",)),
        }

    def cells(self, row: Any) -> list[str]:
        scores = [percent(row["mean_iou"]), percent_interval(row["interval"])]
        return [*scores, percent(row["overall_iou"]), f"{row['images']:,}"]

    def table_rows(self, report: Mapping[str, Any], **sections: bool) -> list[list[str]]:
        classes = [[f"  {name}", "", "", percent(iou)] for name, iou in report["by_class"].items()]
        chosen = {"objects": sections.get("objects", False)}
        return [*super().table_rows(report, **chosen), ["class:"], *classes]

    def encode(self, one: Tensor) -> dict[str, Any]:
        return label_runs(one)

    def words(self, predictions: Tensor, vocabulary: Vocabulary) -> list[str]:
        labels = [sorted(set(one.flatten().tolist()) - {BACKGROUND}) for one in predictions]
        return [", ".join(LABELS[i] for i in of_one) or "nothing" for of_one in labels]

    def answers(self, output: Tensor, vocabulary: Vocabulary) -> list[Answer]:
        shares = torch.softmax(at_least_float32(output), 1).cpu()  # (B, K, h, w)
        labels = self.predictions(shares)  # (B, h, w)
        return [
            Answer(text, {}, 1 - shares[i, BACKGROUND], labels[i].numpy())
            for i, text in enumerate(self.words(labels, vocabulary))
        ]


def class_ious(predictions: Tensor, truths: Tensor) -> Tensor:
    """IoU (B, K) of each class in label maps (B, h, w); NaN where neither map has the class."""
    classes = [intersection_over_union(predictions == k, truths == k) for k in range(len(LABELS))]
    return torch.stack(classes, 1)


def image_ious(predictions: Tensor, truths: Tensor) -> Tensor:
    """Mean IoU (B,) of label maps (B, h, w), over the classes that either map of an image has."""
    return class_ious(predictions, truths).nanmean(1)


def overall_ious(predictions: Tensor, truths: Tensor) -> Tensor:
    """IoU (K,) of each class over all places of all images (N, h, w); NaN for a class that is
    nowhere."""
    return class_ious(predictions[None], truths[None])[0]


def label_runs(labels: Tensor) -> dict[str, list[Any]]:
    """A label map (h, w) as its size and runs of equal labels, row by row: [label, length]."""
    values, counts = torch.unique_consecutive(labels.flatten(), return_counts=True)
    runs = [list(run) for run in zip(values.tolist(), counts.tolist(), strict=True)]
    return {"size": list(labels.shape), "runs": runs}
