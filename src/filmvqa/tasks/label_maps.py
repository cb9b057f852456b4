"""Label maps: the class (material and shape) of the object at each place of an image."""

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
from filmvqa.tasks.maps import NO_OBJECT, MapTargets, MapTask, intersection_over_union, mean_iou_row
from filmvqa.tasks.protocol import Answer, Prediction, Targets, register_task
from filmvqa.tasks.reports import percent, rows_by_group
from filmvqa.worlds.engine.schema import read_scene_objects
from filmvqa.worlds.engine.world import CLEVR

#: The attributes that define an object's class.
CLASS_ATTRIBUTES = ("material", "shape")
#: The label of places without an object.
BACKGROUND = 0
#: The names of the labels: the background, then each material with each shape.
LABELS = (
    "background",
    *map(" ".join, product(*(CLEVR.attributes[name] for name in CLASS_ATTRIBUTES))),
)
#: The entry in the table of labels for objects that a scene lacks.
_ABSENT = 255


def label_of(attributes: Mapping[str, Any], path: str | Path) -> int:
    """The label of an object with these attributes.

    Raises
    ------
    UserError
        For a shape or material that CLEVR lacks; ``path`` is the scene file.
    """
    name = " ".join(str(attributes.get(attribute)) for attribute in CLASS_ATTRIBUTES)
    if name not in LABELS[1:]:
        raise UserError(
            f"{path}: a {name} is none of the classes {', '.join(LABELS[1:])}; use CLEVR's scenes"
        )
    return LABELS.index(name)


class LabelMapTargets(MapTargets):
    """The label of each place, int64 (B, h, w), which does not depend on the question.

    Raises
    ------
    UserError
        If an image has no scene, shows an object that its scene lacks, or shows one without a
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
                    f"{scenes}: has no scene of image {image}; add it, or make the file again"
                )
            labels = [label_of(attributes, scenes) for attributes in objects[image]]
            table[image, : len(labels)] = torch.tensor(labels, dtype=torch.uint8)
        self._table = to_device(table, self.store.device)  # (images, 256)
        self._check(scenes)

    def _check(self, scenes: Path) -> None:
        """Raise ``UserError`` if a map shows an object that its scene lacks."""
        all_images = torch.from_numpy(self.store.image_idxs.astype("int64"))
        for images in torch.split(all_images, 1024):
            is_wrong = (self.maps(images) == _ABSENT).flatten(1).any(1)
            if bool(is_wrong.any()):
                image = int(images[is_wrong.cpu()][0])
                raise UserError(
                    f"{self.path}: image {image} shows an object that its scene in {scenes} does "
                    "not have; make both again"
                )

    def maps(self, images: Tensor) -> Tensor:
        """The label maps (U, h, w) of sorted distinct images (U,), uint8 on the device."""
        objects = self.objects(images)
        tables = self._table[to_device(images, self.store.device)]  # (U, 256)
        return tables.gather(1, objects.flatten(1).long()).view(objects.shape)

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
    """A label map as ``label_runs`` encodes it."""

    size: tuple[int, int]
    runs: list[tuple[int, int]]


class LabelMapPrediction(Prediction, kw_only=True):
    """A label map, and its mean intersection over union with the true map."""

    labels: LabelRuns
    mean_iou: float | None = None

    @property
    def score(self) -> float | None:
        return self.mean_iou


@register_task("label_maps")
class LabelMapTask(MapTask):
    """Segmentation by class: cross-entropy of logits (B, K, h, w).

    The score is the mean intersection over union of the most probable labels (``image_ious``).
    """

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
        """Rows of scores overall and by the image's number of objects, and IoUs by class.

        A row has ``mean_iou``, the mean over images of ``image_ious`` with its 95% interval, and
        ``overall_iou``, the mean over classes of ``overall_ious``, which ``by_class`` has by class.
        """
        scores = image_ious(predictions, targets)

        def row(members: Tensor) -> dict[str, Any]:
            overall = overall_ious(predictions[members], targets[members]).nanmean()
            return {**mean_iou_row(scores[members], float(overall)), "images": int(members.sum())}

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
        return [*super().cells(row), f"{row['images']:,}"]

    def table_rows(self, report: Mapping[str, Any], **sections: bool) -> list[list[str]]:
        classes = [[f"  {name}", "", "", percent(iou)] for name, iou in report["by_class"].items()]
        chosen = {"objects": sections.get("objects", False)}
        return [*super().table_rows(report, **chosen), ["class:"], *classes]

    def encode(self, one: Tensor) -> dict[str, Any]:
        return label_runs(one)

    def words(self, predictions: Tensor, vocabulary: Vocabulary) -> list[str]:
        labels = [sorted(set(one.flatten().tolist()) - {BACKGROUND}) for one in predictions]
        return [", ".join(LABELS[i] for i in indices) or "nothing" for indices in labels]

    def answers(self, output: Tensor, vocabulary: Vocabulary) -> list[Answer]:
        probabilities = torch.softmax(at_least_float32(output), 1).cpu()  # (B, K, h, w)
        labels = self.predictions(probabilities)  # (B, h, w)
        return [
            Answer(text, {}, 1 - probabilities[i, BACKGROUND], labels[i].numpy())
            for i, text in enumerate(self.words(labels, vocabulary))
        ]


def class_ious(predictions: Tensor, truths: Tensor) -> Tensor:
    """IoU (B, K) of each class in label maps (B, h, w); NaN if neither map has the class."""
    classes = [intersection_over_union(predictions == k, truths == k) for k in range(len(LABELS))]
    return torch.stack(classes, 1)


def image_ious(predictions: Tensor, truths: Tensor) -> Tensor:
    """Mean IoU (B,) of label maps (B, h, w), over the classes in either map of an image."""
    return class_ious(predictions, truths).nanmean(1)


def overall_ious(predictions: Tensor, truths: Tensor) -> Tensor:
    """IoU (K,) of each class over all places of label maps (N, h, w); NaN for an absent class."""
    return class_ious(predictions[None], truths[None])[0]


def label_runs(labels: Tensor) -> dict[str, list[Any]]:
    """Encode a label map (h, w): its size, and runs [label, length] of equal labels by row."""
    values, counts = torch.unique_consecutive(labels.flatten(), return_counts=True)
    runs = [list(run) for run in zip(values.tolist(), counts.tolist(), strict=True)]
    return {"size": list(labels.shape), "runs": runs}
