"""The predictions of an evaluation with their questions, as a table to search."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout, EvaluationLayout, RunLayout
from filmvqa.tasks.protocol import read_predictions, task_of_record
from filmvqa.tasks.reports import num_objects
from filmvqa.tasks.words import WordPrediction, WordTask

#: The columns of predicted answers, all of which filter, and of masks, of which the intersection
#: over union with the true mask does not.
ANSWER_COLUMNS = ("type", "family", "objects", "length", "expected", "given")
IOU = "IoU"
MASK_COLUMNS = ("meant", "family", "objects", "length", IOU)
#: Masks with a lower IoU count as wrong: the lowest threshold of the reports' precision.
WRONG_BELOW = 0.5
#: A prediction: its ``question``, the index of its ``image``, ``is_wrong``, and the values of the
#: columns, which are empty if unknown.
Row = dict[str, Any]


@dataclass(frozen=True)
class PredictionTable:
    """The predictions of a split; masks are sorted from worst to best.

    Attributes
    ----------
    columns
        The names of the columns.
    has_truths
        Whether true answers, or true masks, are known.
    """

    split: str
    columns: Sequence[str]
    rows: list[Row]
    has_truths: bool

    def values(self, column: str) -> list[Any]:
        """The sorted known values of a column, numbers before words."""
        values = {row[column] for row in self.rows if row[column] != ""}
        return sorted(values, key=lambda value: (isinstance(value, str), value))

    def choose(self, chosen: dict[str, Any], *, only_wrong: bool = False) -> list[Row]:
        """The predictions with the chosen values of columns."""
        return [
            row for row in self.rows
            if (row["is_wrong"] or not only_wrong) and chosen.items() <= row.items()
        ]  # fmt: skip


def list_evaluated_splits(folder: Path) -> list[str]:
    """The splits whose predictions a run's folder holds."""
    evaluation = RunLayout(folder).evaluation
    ending = EvaluationLayout(evaluation, "").predictions.name
    return sorted(path.name.removesuffix(ending) for path in evaluation.glob(f"*{ending}"))


def read_table(
    folder: Path, split: str, layout: DatasetLayout, vocabulary: Vocabulary
) -> PredictionTable:
    """The predictions that ``evaluate.py`` wrote to a run's folder.

    Raises
    ------
    UserError
        If predictions or questions are missing or damaged, or do not match.
    """
    path = EvaluationLayout(RunLayout(folder).evaluation, split).predictions
    records = read_predictions(path)
    questions = QuestionDataset.load(layout.question_h5(split), vocabulary)
    row_of = {index: row for row, index in enumerate(questions.original_index.tolist())}
    indices = [row_of.get(record.question_index, -1) for record in records]
    for record, index in zip(records, indices, strict=True):
        if index < 0 or int(questions.images[index]) != record.image_index:
            raise UserError(
                f"{path}: answers question {record.question_index} about image "
                f"{record.image_index}, which {layout.question_h5(split)} does not have; evaluate "
                "the checkpoint again, or give the h5 that it was evaluated with"
            )
    questions = questions.select(torch.tensor(indices))
    task = task_of_record(records[0]) if records else WordTask()
    names, types = task.question_types(questions) or ([], None)

    def known(values: Any) -> list[Any]:
        """Non-negative whole numbers, and an empty text for unknown ones."""
        if values is None:
            return [""] * len(records)
        return [number if number >= 0 else "" for number in values.tolist()]

    columns: dict[str, Any] = {
        "meant" if task.draws else "type": [t if t == "" else names[t] for t in known(types)],
        "family": known(questions.families),
        "objects": known(num_objects(layout.scene_json(split), questions.images)),
        "length": known(questions.program_lengths),
    }
    if task.draws:
        scores = [record.score for record in records]
        columns[IOU] = ["" if score is None else f"{score:.2f}" for score in scores]
        is_wrong = [score is not None and score < WRONG_BELOW for score in scores]
        order = sorted(range(len(scores)), key=lambda i: _score_order(scores[i]))
        has_truths = any(score is not None for score in scores)
    else:
        answers = [record for record in records if isinstance(record, WordPrediction)]
        columns["expected"] = [record.truth or "" for record in answers]
        columns["given"] = [record.answer for record in answers]
        is_wrong = [bool(record.truth) and record.truth != record.answer for record in answers]
        order, has_truths = list(range(len(answers))), any(record.truth for record in answers)
    rows = [
        {
            "row": i, "is_wrong": is_wrong[i], "image": records[i].image_index,
            "question": vocabulary.decode(questions.questions[i].tolist()),
            **{name: values[i] for name, values in columns.items()},
        }
        for i in order
    ]  # fmt: skip
    return PredictionTable(split, list(columns), rows, has_truths)


def _score_order(score: float | None) -> float:
    """The sort key of masks: those without a known true mask come last."""
    return math.inf if score is None else score
