"""What a model is trained for: its loss, what is kept of its output, and how that is scored.

An objective belongs to a kind of targets (``data.targets``), which a model names in ``TARGETS``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from filmvqa.models import targets_of
from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.tasks.accuracy import accuracy_report, format_report, question_type_indices
from filmvqa.tasks.label_maps import (
    format_label_map_report,
    image_ious,
    label_map_report,
    label_runs,
)
from filmvqa.tasks.labels import labels_shown
from filmvqa.tasks.masks import (
    dice_loss,
    format_mask_report,
    intersection_over_union,
    mask_report,
    number_referred,
    run_lengths,
)
from filmvqa.worlds.engine.programs import NUMBERS_REFERRED


class AnswerObjective:
    """Classification: cross-entropy of logits (B, A), and whether the likeliest answer is right.

    Other objectives have the same methods.

    Attributes
    ----------
    targets
        The kind of targets that outputs are compared with.
    metric
        The name of the mean score in records and reports.
    prediction_dtype
        The type of predictions.
    score_dtype
        In which scores are summed while training.
    """

    targets: ClassVar[str] = "answers"
    metric: ClassVar[str] = "accuracy"
    prediction_dtype: ClassVar[torch.dtype] = torch.int64
    score_dtype: ClassVar[torch.dtype] = torch.int64

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The mean loss () of outputs and targets (B, ...)."""
        return F.cross_entropy(output.float(), targets)

    def predictions(self, output: Tensor) -> Tensor:
        """What is kept of outputs, of the shape of the targets (B, ...)."""
        return output.argmax(1)

    def scores(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """How good each prediction is, (B,) from 0 to 1, or whether it is right."""
        return predictions == targets

    def describe(
        self, output: Tensor, targets: Tensor | None, vocabulary: Vocabulary
    ) -> list[tuple[str, str, float]]:
        """Of each question the target in words (empty if it is not known), the prediction in words,
        and the prediction's probability or score."""
        shares, answers = torch.softmax(output.float(), 1).max(1)
        texts = vocabulary.answers()
        truths = [""] * len(output) if targets is None else [texts[i] for i in targets.tolist()]
        given = [texts[i] for i in answers.tolist()]
        return list(zip(truths, given, shares.tolist(), strict=True))

    def question_types(self, questions: QuestionDataset) -> tuple[list[str], Tensor] | None:
        """The names of the types by which scores are averaged while training, and the index (N,) of
        each question's, -1 for none of them; None for questions without types."""
        types = question_type_indices(questions)
        return None if types is None else (list(questions.question_types), types)

    def report(
        self,
        predictions: Tensor,
        targets: Tensor,
        questions: QuestionDataset,
        num_objects: Tensor | None = None,
    ) -> dict[str, Any]:
        """The scores of all predictions (N, ...), overall and by group of questions.

        ``num_objects`` (N,) are the numbers of objects of each question's image; None: unknown.
        """
        return accuracy_report(predictions, questions, num_objects)

    def format_report(self, report: dict[str, Any], **sections: bool) -> str:
        """The report as a table to print; ``families``, ``lengths`` and ``objects`` on request."""
        return format_report(report, **sections)

    def records(
        self, predictions: Tensor, targets: Tensor | None, vocabulary: Vocabulary
    ) -> list[dict[str, Any]]:
        """What the file of predictions has of each question, beside its number and image."""
        answers = vocabulary.answers()
        records: list[dict[str, Any]] = [{"answer": answers[i]} for i in predictions.tolist()]
        if targets is not None:
            for record, truth in zip(records, targets.tolist(), strict=True):
                record["truth"] = answers[truth]
        return records


class MaskObjective:
    """Segmentation: binary cross-entropy and Dice of logits (B, h, w), and the intersection over
    union of the mask where they are above 0, as ``mask_scores`` defines it."""

    targets: ClassVar[str] = "masks"
    metric: ClassVar[str] = "mean_iou"
    prediction_dtype: ClassVar[torch.dtype] = torch.uint8
    score_dtype: ClassVar[torch.dtype] = torch.float32

    def __init__(self, bce_weight: float = 1.0, dice_weight: float = 1.0) -> None:
        self.bce_weight, self.dice_weight = bce_weight, dice_weight

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        logits, masks = output.float(), targets.float()
        bce = F.binary_cross_entropy_with_logits(logits, masks)
        return self.bce_weight * bce + self.dice_weight * dice_loss(logits, masks)

    def predictions(self, output: Tensor) -> Tensor:
        return (output > 0).to(torch.uint8)

    def scores(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return intersection_over_union(predictions, targets)

    def describe(
        self, output: Tensor, targets: Tensor | None, vocabulary: Vocabulary
    ) -> list[tuple[str, str, float]]:
        return _described(self, output, targets, _share_shown)

    def question_types(self, questions: QuestionDataset) -> tuple[list[str], Tensor] | None:
        if questions.objects is None:
            return None
        return list(NUMBERS_REFERRED), number_referred(questions.objects)

    def report(
        self,
        predictions: Tensor,
        targets: Tensor,
        questions: QuestionDataset,
        num_objects: Tensor | None = None,
    ) -> dict[str, Any]:
        return mask_report(predictions, targets, questions, num_objects)

    def format_report(self, report: dict[str, Any], **sections: bool) -> str:
        return format_mask_report(report, **sections)

    def records(
        self, predictions: Tensor, targets: Tensor | None, vocabulary: Vocabulary
    ) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = [{"mask": run_lengths(mask)} for mask in predictions]
        if targets is not None:
            for record, iou in zip(records, self.scores(predictions, targets), strict=True):
                record["iou"] = float(iou)
        return records


class LabelMapObjective:
    """Segmentation by class: cross-entropy of logits (B, K, h, w), and the mean intersection over
    union of the likeliest labels, as ``image_ious`` defines it."""

    targets: ClassVar[str] = "label_maps"
    metric: ClassVar[str] = "mean_iou"
    prediction_dtype: ClassVar[torch.dtype] = torch.uint8
    score_dtype: ClassVar[torch.dtype] = torch.float32

    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(output.float(), targets)

    def predictions(self, output: Tensor) -> Tensor:
        return output.argmax(1).to(torch.uint8)

    def scores(self, predictions: Tensor, targets: Tensor) -> Tensor:
        return image_ious(predictions, targets)

    def describe(
        self, output: Tensor, targets: Tensor | None, vocabulary: Vocabulary
    ) -> list[tuple[str, str, float]]:
        return _described(self, output, targets, lambda labels: labels_shown(labels.cpu().numpy()))

    def question_types(self, questions: QuestionDataset) -> tuple[list[str], Tensor] | None:
        return None

    def report(
        self,
        predictions: Tensor,
        targets: Tensor,
        questions: QuestionDataset,
        num_objects: Tensor | None = None,
    ) -> dict[str, Any]:
        return label_map_report(predictions, targets, num_objects)

    def format_report(self, report: dict[str, Any], **sections: bool) -> str:
        return format_label_map_report(report, objects=sections.get("objects", False))

    def records(
        self, predictions: Tensor, targets: Tensor | None, vocabulary: Vocabulary
    ) -> list[dict[str, Any]]:
        records: list[dict[str, Any]] = [{"labels": label_runs(labels)} for labels in predictions]
        if targets is not None:
            for record, iou in zip(records, self.scores(predictions, targets), strict=True):
                record["mean_iou"] = float(iou)
        return records


def _described(
    objective: MaskObjective | LabelMapObjective, output: Tensor, targets: Tensor | None,
    in_words: Callable[[Tensor], str],
) -> list[tuple[str, str, float]]:  # fmt: skip
    """What ``describe`` returns of maps, each of which (h, w) ``in_words`` describes."""
    given = objective.predictions(output)
    shown = [in_words(one) for one in given]
    if targets is None:
        return [("", words, 0.0) for words in shown]
    true = [in_words(one) for one in targets]
    return list(zip(true, shown, objective.scores(given, targets).tolist(), strict=True))


def _share_shown(mask: Tensor) -> str:
    return f"{100 * float(mask.float().mean()):.1f}% of the picture"


Objective: TypeAlias = AnswerObjective | MaskObjective | LabelMapObjective


def objective_of(model: nn.Module, **loss_weights: float) -> Objective:
    """The objective of a model, which is that of the targets that it names.

    ``loss_weights`` are those of the parts of a loss that has several, as ``MaskObjective`` takes
    them.
    """
    return objective_for(targets_of(model), **loss_weights)


def objective_for(targets: str, **loss_weights: float) -> Objective:
    """The objective of a kind of targets."""
    if targets == MaskObjective.targets:
        return MaskObjective(**loss_weights)
    if targets == LabelMapObjective.targets:
        return LabelMapObjective()
    return AnswerObjective()
