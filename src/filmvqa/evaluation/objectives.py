"""What a model is trained for: its loss, what is kept of its output, and how that is scored.

An objective belongs to a kind of targets (``data.targets``), which a model names in ``TARGETS``.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from filmvqa.data.questions import QuestionDataset
from filmvqa.data.vocabulary import Vocabulary
from filmvqa.evaluation.accuracy import accuracy_report, format_report, question_type_indices
from filmvqa.models import targets_of


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


_OBJECTIVES = {AnswerObjective.targets: AnswerObjective}


def objective_of(model: type[nn.Module] | nn.Module) -> AnswerObjective:
    """The objective of a model, which is that of the targets that it names."""
    return _OBJECTIVES[targets_of(model)]()
