"""The protocol of a kind of answer, which is all that the rest of the package knows of it.

A kind of answer is one file with a subclass of ``Task`` that is registered under a name, and one of
``Targets``, which a loss compares outputs with. A model names its task in ``TARGETS``. The file may
be outside the package.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

import msgspec
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from filmvqa.models import targets_of
from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from filmvqa.system.files import read_bytes
from filmvqa.system.layout import DatasetLayout
from filmvqa.system.tables import text_table
from filmvqa.tasks.reports import section_rows

#: Sections of a printed report that are shown on request, with their titles and keys.
OPTIONAL_SECTIONS = {
    "families": ("family", "by_family"),
    "lengths": ("program length", "by_program_length"),
    "objects": ("objects", "by_num_objects"),
}


@dataclass(frozen=True)
class Answer:
    """The likeliest answer, and the probability of every answer, likeliest first.

    Of a network that draws there are no such answers: ``text`` says how much of the picture is
    meant, and ``places`` (h, w) how probably each place is. Of one that labels, ``text`` names what
    is there, ``places`` say how probably an object is, and ``labels`` (h, w) are the likeliest, as
    ``tasks.label_maps.LABELS`` has them.
    """

    text: str
    probabilities: dict[str, float]
    places: Tensor | None = None
    labels: NDArray[np.uint8] | None = None

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """The places (h, w) that are meant; None of a network that answers in words."""
        return None if self.places is None else self.places.numpy() > 0.5


class Prediction(msgspec.Struct, kw_only=True):
    """A line of ``<split>_predictions.jsonl``: a question's number, its image, and the entries that
    a task adds."""

    question_index: int
    image_index: int | None = None

    @property
    def score(self) -> float | None:
        """How good it is, from 0 to 1; None if the target is not known."""
        raise NotImplementedError


class Targets(ABC):
    """The targets of a split's questions.

    Attributes
    ----------
    noun
        What messages call them.
    """

    noun: ClassVar[str]

    @classmethod
    def open(
        cls, layout: DatasetLayout, questions: QuestionDataset, split: str, device: torch.device,
        placement: str,
    ) -> Self:  # fmt: skip
        """Those of a split, whose files, if they need any, are held where ``placement`` says, as
        ``open_feature_store`` takes it.

        Raises
        ------
        UserError
            If a file is missing, broken, or of other images than the questions.
        """
        return cls()

    @abstractmethod
    def known(self, questions: QuestionDataset) -> bool:
        """Whether questions have such targets; those of a test split may be withheld."""

    @abstractmethod
    def read(
        self, questions: QuestionDataset, rows: Tensor, images: Tensor, image_of_question: Tensor
    ) -> Tensor | None:
        """Targets (B, ...) of the rows (B,), None if they are not known.

        ``images`` (U,) are the sorted indices of their images, into which ``image_of_question``
        (B,) points; both are on the host.
        """

    @abstractmethod
    def output_options(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """The options of a model that tell it the size of its output."""

    def inputs(self) -> dict[str, Any]:
        """What identifies the files that targets are made of beside the questions."""
        return {}

    def close(self) -> None:  # noqa: B027
        """Release these files."""


class Task(ABC):
    """What a model is trained for: its loss, what is kept of its output, how that is scored, and
    how it is written and said.

    ``loss_weights`` are those of the parts of a loss that has several (``MaskTask``).

    Attributes
    ----------
    name
        Under which it is registered, and which models have in ``TARGETS``.
    targets
        The class of its targets.
    metric
        The name of the mean score in records and reports.
    prediction
        The record of a prediction; no two tasks have the same required entries.
    prediction_dtype, score_dtype
        The type of predictions, and that in which scores are summed while training.
    draws
        Whether an answer is a map of the picture.
    group
        What the types of ``question_types`` are called; None: it has none.
    columns, sections
        Of the printed report: the names of the columns, and the keys of sections by their titles.
    unit
        The entry of a report's rows that counts what is scored.
    does, gives, scored_as
        For model cards: what a network does, what it gives for any question, and what its scores
        are.
    """

    name: ClassVar[str]
    targets: ClassVar[type[Targets]]
    metric: ClassVar[str]
    prediction: ClassVar[type[Prediction]]
    prediction_dtype: ClassVar[torch.dtype]
    score_dtype: ClassVar[torch.dtype] = torch.float32
    draws: ClassVar[bool] = True
    columns: ClassVar[Sequence[str]]
    sections: ClassVar[Mapping[str, str]] = {}
    unit: ClassVar[str] = "questions"
    does: ClassVar[str]
    gives: ClassVar[str]
    scored_as: ClassVar[str]

    def __init__(self, **loss_weights: float) -> None:
        self.loss_weights = loss_weights

    @property
    def score_title(self) -> str:
        """The name of the mean score for people."""
        return score_title(self.metric)

    @abstractmethod
    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The mean loss () of outputs and targets (B, ...)."""

    @abstractmethod
    def predictions(self, output: Tensor) -> Tensor:
        """What is kept of outputs, of the shape of the targets (B, ...)."""

    @abstractmethod
    def scores(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """How good each prediction is, (B,) from 0 to 1, or whether it is right."""

    def question_types(self, questions: QuestionDataset) -> tuple[list[str], Tensor] | None:
        """The names of the types by which scores are averaged while training, and the index (N,) of
        each question's, -1 for none of them; None for questions without types."""
        return None

    @abstractmethod
    def report(
        self, predictions: Tensor, targets: Tensor, questions: QuestionDataset
    ) -> dict[str, Any]:
        """The scores of all predictions (N, ...), in rows: ``overall``, and by group of
        questions."""

    @abstractmethod
    def cells(self, row: Any) -> list[str]:
        """A row of the report as the ``columns`` of the printed one have it."""

    def table_rows(self, report: Mapping[str, Any], **sections: bool) -> list[list[str]]:
        """The rows of the printed report below its header."""
        optional = [pair for key, pair in OPTIONAL_SECTIONS.items() if sections.get(key)]
        return section_rows(report, {**self.sections, **dict(optional)}, self.cells)

    def format_report(self, report: Mapping[str, Any], **sections: bool) -> str:
        """The report as a table to print; ``families``, ``lengths`` and ``objects`` on request."""
        return text_table([["", *self.columns], *self.table_rows(report, **sections)])

    @abstractmethod
    def records(
        self, predictions: Tensor, targets: Tensor | None, vocabulary: Vocabulary
    ) -> list[dict[str, Any]]:
        """The entries of the ``prediction`` of each question, beside its number and image."""

    @abstractmethod
    def words(self, predictions: Tensor, vocabulary: Vocabulary) -> list[str]:
        """Predictions or targets (B, ...) in words."""

    @abstractmethod
    def answers(self, output: Tensor, vocabulary: Vocabulary) -> list[Answer]:
        """What is said to someone who asks, of outputs (B, ...)."""

    def certainties(self, output: Tensor, targets: Tensor | None) -> Tensor:
        """The score (B,) of each prediction, 0 where it is not known, or its probability."""
        if targets is None:
            return torch.zeros(len(output))
        return self.scores(self.predictions(output), targets)


TASKS: dict[str, type[Task]] = {}
_T = TypeVar("_T", bound=type[Task])


def register_task(name: str) -> Callable[[_T], _T]:
    """Decorator: a subclass of ``Task`` is the task of models whose ``TARGETS`` is ``name``."""

    def register(task: _T) -> _T:
        task.name = name
        TASKS[name] = task
        return task

    return register


def find_task(name: str, **loss_weights: float) -> Task:
    """The task that is registered under a name.

    Raises
    ------
    UserError
        If there is none.
    """
    if name not in TASKS:
        raise UserError(
            f"{name!r} is no task ({', '.join(TASKS)}); give the file that registers it: "
            "imports=[<module>]"
        )
    return TASKS[name](**loss_weights)


def task_of(model: str | nn.Module, **loss_weights: float) -> Task:
    """The task of a model, or of one of a name; raises ``UserError`` as ``find_task``."""
    return find_task(targets_of(model), **loss_weights)


def score_title(metric: str) -> str:
    """The name of a score as figures and messages have it."""
    return metric.replace("_iou", " IoU")


def read_predictions(path: Path) -> list[Prediction]:
    """The predictions that an evaluation has written, with their images, as their task records
    them.

    Raises
    ------
    UserError
        If the file is missing, or a line is no such record.
    """
    lines = read_bytes(path, "evaluate the run on it").splitlines()
    record_type, records = _record_type(lines[0] if lines else b"", path), []
    for number, line in enumerate(lines, 1):
        try:
            record = msgspec.json.decode(line, type=record_type)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UserError(f"{path}: line {number}: {error}; evaluate the run again") from None
        if record.image_index is None:
            raise UserError(f"{path}: line {number}: no image_index; evaluate the run again")
        records.append(record)
    return records


def task_of_record(record: Prediction) -> Task:
    """The task that has recorded a prediction."""
    return next(task() for task in TASKS.values() if isinstance(record, task.prediction))


def _record_type(line: bytes, path: Path) -> type[Prediction]:
    """The record of the task whose entries the first line of a file has."""
    try:
        entries = msgspec.json.decode(line, type=dict[str, msgspec.Raw]).keys()
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Prediction  # what is wrong is said when the line is read
    required = {
        task.prediction: {f.encode_name for f in msgspec.structs.fields(task.prediction)
                          if f.required} - {"question_index"}
        for task in TASKS.values()
    }  # fmt: skip
    for record_type, names in required.items():
        if names <= entries:
            return record_type
    choices = " or ".join(f"`{name}`" for names in required.values() for name in sorted(names))
    raise UserError(f"{path}: line 1: has no {choices}; evaluate the run again")
