"""Masks of the objects that a referring expression refers to.

An expression that refers to nothing has an empty mask. The intersection over union of an empty
prediction for it is 1, that of any other prediction 0.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any, ClassVar

import msgspec
import torch
import torch.nn.functional as F
from torch import Tensor

from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.question_table import MAX_OBJECTS
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.devices import at_least_float32, to_device
from filmvqa.tasks.maps import MapTargets, MapTask, intersection_over_union, mean_iou_row
from filmvqa.tasks.protocol import Answer, Prediction, Targets, register_task
from filmvqa.tasks.reports import percent, rows_by_group
from filmvqa.worlds.engine.programs import NUMBERS_REFERRED

#: A report has the precision at each threshold: the share of masks whose IoU is above it.
THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9)


class MaskTargets(MapTargets):
    """Masks of the objects that referring expressions refer to: 0 or 1, uint8 (B, h, w)."""

    noun: ClassVar[str] = "referred objects"

    def known(self, questions: QuestionDataset) -> bool:
        return questions.objects is not None

    def read(
        self, questions: QuestionDataset, rows: Tensor, images: Tensor, image_of_question: Tensor
    ) -> Tensor | None:
        if questions.objects is None:
            return None
        device = self.store.device
        referred = to_device(questions.objects[rows], device)[:, None, None]  # (B, 1, 1)
        # No set has the sign bit, which stands for no object.
        bits = self.objects(images).clamp(max=MAX_OBJECTS).long()  # (U, h, w)
        return ((referred >> bits[to_device(image_of_question, device)]) & 1).to(torch.uint8)


class RunLengths(msgspec.Struct):
    """A mask as ``run_lengths`` encodes it."""

    size: tuple[int, int]
    counts: list[int]

    def __post_init__(self) -> None:
        if min(self.size) < 1 or sum(self.counts) != self.size[0] * self.size[1]:
            raise ValueError(f"the runs of a mask are not as long as its size {self.size}")


class MaskPrediction(Prediction, kw_only=True):
    """A mask, and its intersection over union with the true mask."""

    mask: RunLengths
    iou: float | None = None

    @property
    def score(self) -> float | None:
        return self.iou


@register_task("masks")
class MaskTask(MapTask):
    """Segmentation: binary cross-entropy and Dice loss of logits (B, h, w).

    The loss weights are ``bce_weight`` and ``dice_weight``, 1 by default. The predicted mask is
    where logits are above 0, and its score is the intersection over union.
    """

    prediction: ClassVar[type[Prediction]] = MaskPrediction
    targets: ClassVar[type[Targets]] = MaskTargets
    map_entry: ClassVar[str] = "mask"
    score_entry: ClassVar[str] = "iou"
    columns = ("mean IoU", "95% interval", "overall IoU", *(f"P@{t}" for t in THRESHOLDS),
               "expressions")  # fmt: skip
    sections: ClassVar[Mapping[str, str]] = {"objects referred to": "by_number"}
    does = "draws what English expressions in CLEVR's words refer to"
    gives = "a mask"
    scored_as = "Mean intersection over union in percent with its 95% interval, on images that " \
        "it was not trained on; an empty mask where nothing is meant counts as 100."  # fmt: skip

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        logits = at_least_float32(output)
        masks = targets.to(logits.dtype)
        bce = F.binary_cross_entropy_with_logits(logits, masks)
        weights = self.loss_weights
        dice = weights.get("dice_weight", 1.0) * dice_loss(logits, masks)
        return weights.get("bce_weight", 1.0) * bce + dice

    def predictions(self, output: Tensor) -> Tensor:
        return (output > 0).to(torch.uint8)

    def scores(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return intersection_over_union(predictions, targets).nan_to_num(1.0)

    def question_types(self, questions: QuestionDataset) -> tuple[list[str], Tensor] | None:
        if questions.objects is None:
            return None
        return list(NUMBERS_REFERRED), number_referred(questions.objects)

    def report(
        self, predictions: Tensor, targets: Tensor, questions: QuestionDataset
    ) -> dict[str, Any]:
        """Rows of scores overall and by group of expressions.

        A row has ``mean_iou`` with its 95% interval, ``overall_iou``, the intersection over union
        of all masks together, and ``precision`` by threshold. ``by_number`` groups by the number of
        objects referred to; the other groups are those of the report of answers.
        """
        ious = self.scores(predictions, targets)

        def row(members: Tensor) -> dict[str, Any]:
            scores, masks = ious[members], (predictions[None, members], targets[None, members])
            precision = {f"{t}": float((scores > t).double().mean()) for t in THRESHOLDS}
            return {
                **mean_iou_row(scores, float(intersection_over_union(*masks))),
                "precision": precision if len(scores) else {},
                "questions": len(scores),
            }

        report: dict[str, Any] = {
            "targets": self.name,
            "overall": row(torch.ones(len(targets), dtype=torch.bool)),
        }
        if (types := self.question_types(questions)) is not None:
            report["by_number"] = {name: row(types[1] == i) for i, name in enumerate(types[0])}
        return report | rows_by_group(row, questions)

    def cells(self, row: Any) -> list[str]:
        precisions = [percent(row["precision"].get(f"{t}")) for t in THRESHOLDS]
        return [*super().cells(row), *precisions, f"{row['questions']:,}"]

    def encode(self, one: Tensor) -> dict[str, Any]:
        return run_lengths(one)

    def words(self, predictions: Tensor, vocabulary: Vocabulary) -> list[str]:
        shares = [100 * float(mask.float().mean()) for mask in predictions]
        return [f"{share:.1f}% of the picture" if share else "nothing" for share in shares]

    def answers(self, output: Tensor, vocabulary: Vocabulary) -> list[Answer]:
        probabilities = torch.sigmoid(at_least_float32(output)).cpu()  # (B, h, w)
        texts = self.words(probabilities > 0.5, vocabulary)
        return [Answer(text, {}, one) for text, one in zip(texts, probabilities, strict=True)]


def dice_loss(logits: Tensor, masks: Tensor) -> Tensor:
    """The mean of 1 minus the Dice coefficient of probabilities and masks (B, h, w).

    As in Milletari et al. (2016), but with sums in place of sums of squares, and with 1 added to
    numerator and denominator, so that an empty mask has a gradient.
    """
    probabilities = torch.sigmoid(logits)
    common = (probabilities * masks).sum((1, 2))
    total = probabilities.sum((1, 2)) + masks.sum((1, 2))
    return (1 - (2 * common + 1) / (total + 1)).mean()


def number_referred(objects: Tensor) -> Tensor:
    """The index (N,) into ``NUMBERS_REFERRED`` of sets of objects (N,), given as bits."""
    is_several = objects & (objects - 1) != 0
    return (objects != 0).long() + is_several.long()


def run_lengths(mask: Tensor) -> dict[str, list[int]]:
    """Encode a mask (h, w) of 0 and 1 like COCO's uncompressed masks.

    ``counts`` are the lengths of alternating runs of 0 and 1, column by column; the first run is of
    0 and may be empty.
    """
    values = mask.T.flatten()
    changes = (values.diff() != 0).nonzero().flatten() + 1
    edges = [0, *changes.tolist(), len(values)]
    counts = [last - first for first, last in pairwise(edges)]
    if len(values) and bool(values[0]):
        counts.insert(0, 0)
    return {"size": list(mask.shape), "counts": counts}
