"""The predictions of an evaluation, with what their questions ask, to be looked through."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout, EvaluationLayout, RunLayout
from filmvqa.tasks.protocol import read_predictions, task_of_record
from filmvqa.tasks.reports import num_objects
from filmvqa.tasks.words import WordPrediction, WordTask

#: The columns of answers, by which they are chosen, and those of masks; the intersection over union
#: of a mask with the true one is a number, and no choice.
ANSWER_COLUMNS = ("type", "family", "objects", "length", "expected", "given")
IOU = "IoU"
MASK_COLUMNS = ("meant", "family", "objects", "length", IOU)
#: A mask with less is wrong: the lowest threshold of the reports' precision.
WRONG_BELOW = 0.5


@dataclass(frozen=True)
class Evaluated:
    """The N predictions of a split.

    Attributes
    ----------
    columns
        (N,) values by the name of each column; what is not known is an empty string.
    questions, images
        (N,) words, and index of the picture.
    ious
        (N,) of masks, NaN where the true one is not known; None of answers.
    """

    split: str
    columns: dict[str, NDArray[np.str_]]
    questions: Sequence[str]
    images: NDArray[np.int64]
    ious: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.images)

    @property
    def is_wrong(self) -> NDArray[np.bool_]:
        if self.ious is not None:
            return self.ious < WRONG_BELOW
        expected, given = self.columns["expected"], self.columns["given"]
        wrong: NDArray[np.bool_] = (expected != "") & (expected != given)
        return wrong

    @property
    def has_truths(self) -> bool:
        """Whether the right answers, or the true masks, are known."""
        if self.ious is not None:
            return not bool(np.isnan(self.ious).all())
        return bool((self.columns["expected"] != "").any())

    def values(self, column: str) -> list[str]:
        """The values of a column, numbers in their order and words in theirs."""
        found = [str(value) for value in np.unique(self.columns[column]) if value]
        return sorted(found, key=lambda v: (not v.isdigit(), v.zfill(9) if v.isdigit() else v))

    def choose(self, chosen: dict[str, str], *, only_wrong: bool) -> NDArray[np.int64]:
        """The predictions (M,) that have all chosen values of columns; the worst masks come
        first."""
        mask = self.is_wrong if only_wrong else np.ones(len(self), bool)
        for column, value in chosen.items():
            mask = mask & (self.columns[column] == value)
        rows = np.nonzero(mask)[0]
        return rows if self.ious is None else rows[np.argsort(self.ious[rows], kind="stable")]


def evaluated_splits(folder: Path) -> list[str]:
    """The splits of which a run's folder has predictions."""
    evaluation = RunLayout(folder).evaluation
    ending = EvaluationLayout(evaluation, "").predictions.name
    return sorted(path.name.removesuffix(ending) for path in evaluation.glob(f"*{ending}"))


def read_evaluated(
    folder: Path, split: str, layout: DatasetLayout, vocabulary: Vocabulary
) -> Evaluated:
    """The predictions that ``evaluate.py`` has written to a run's folder.

    Raises
    ------
    UserError
        If predictions or questions are missing or damaged, or do not belong together.
    """
    path = EvaluationLayout(RunLayout(folder).evaluation, split).predictions
    records = read_predictions(path)
    questions = QuestionDataset.load(layout.question_h5(split), vocabulary)
    row_of = {index: row for row, index in enumerate(questions.original_index.tolist())}
    rows = [row_of.get(record.question_index, -1) for record in records]
    for record, row in zip(records, rows, strict=True):
        if row < 0 or int(questions.images[row]) != record.image_index:
            raise UserError(
                f"{path}: answers question {record.question_index} about image "
                f"{record.image_index}, which {layout.question_h5(split)} does not have; evaluate "
                "the checkpoint again, or give the h5 that it was evaluated with"
            )
    questions = questions.select(torch.tensor(rows))
    task = task_of_record(records[0]) if records else WordTask()
    types = task.question_types(questions)
    names, indices = ([], None) if types is None else ([*types[0], ""], types[1])
    columns = {
        "meant" if task.draws else "type": _texts(indices, len(rows), names),
        "family": _texts(questions.families, len(rows)),
        "objects": _texts(num_objects(layout.scene_json(split), questions.images), len(rows)),
        "length": _texts(questions.program_lengths, len(rows)),
    }
    scores = None
    if task.draws:
        scores = np.array([np.nan if r.score is None else r.score for r in records], np.float64)
        columns[IOU] = ["" if np.isnan(score) else f"{score:.2f}" for score in scores]
    else:
        answers = [record for record in records if isinstance(record, WordPrediction)]
        columns["expected"] = [record.truth or "" for record in answers]
        columns["given"] = [record.answer for record in answers]
    return Evaluated(
        split,
        {name: np.array(values, dtype=np.str_) for name, values in columns.items()},
        [vocabulary.decode(words) for words in questions.questions.tolist()],
        questions.images.numpy(),
        scores,
    )


def _texts(values: Tensor | None, count: int, names: Sequence[str] | None = None) -> list[str]:
    """Numbers (N,), or the names that they index, as a column has them; empty where unknown."""
    if values is None:
        return [""] * count
    return [("" if v < 0 else str(v)) if names is None else names[v] for v in values.tolist()]
