"""The interface of tasks, through which the rest of the package uses them.

A task is one file, in the package or outside: a subclass of ``Task``, registered under a name, and
a subclass of ``Targets``, with which the loss compares outputs. A model names its task in
``TARGETS``.
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

#: Title and key of each section of a printed report that is shown on request.
OPTIONAL_SECTIONS = {
    "families": ("family", "by_family"),
    "lengths": ("program length", "by_program_length"),
    "objects": ("objects", "by_num_objects"),
}


@dataclass(frozen=True)
class Answer:
    """The answer of a network to one question.

    For answers in words, ``text`` is the most probable answer, and ``probabilities`` has all of
    them, the most probable first. For masks, ``text`` says how much of the picture the mask covers,
    and ``places`` (h, w) is the probability that a place belongs to it. For label maps, ``text``
    names the classes, ``places`` (h, w) is the probability of an object, and ``labels`` (h, w) is
    the most probable index into ``tasks.label_maps.LABELS``.
    """

    text: str
    probabilities: dict[str, float]
    places: Tensor | None = None
    labels: NDArray[np.uint8] | None = None

    @property
    def mask(self) -> NDArray[np.bool_] | None:
        """The predicted mask (h, w); None for an answer in words."""
        return None if self.places is None else self.places.numpy() > 0.5


class Prediction(msgspec.Struct, kw_only=True):
    """A line of ``<split>_predictions.jsonl``: question, image, and the entries of the task."""

    question_index: int
    image_index: int | None = None

    @property
    def score(self) -> float | None:
        """The score from 0 to 1; None if the target is not known."""
        raise NotImplementedError


class Targets(ABC):
    """The targets of a split's questions.

    Attributes
    ----------
    noun
        The name of the targets in messages.
    """

    noun: ClassVar[str]

    @classmethod
    def open(
        cls, layout: DatasetLayout, questions: QuestionDataset, split: str, device: torch.device,
        placement: str,
    ) -> Self:  # fmt: skip
        """Open the targets of a split.

        ``placement`` says where their maps are stored, if they have any, as in
        ``open_feature_store``.

        Raises
        ------
        UserError
            If a file is missing, damaged, or of other images than the questions.
        """
        return cls()

    @abstractmethod
    def known(self, questions: QuestionDataset) -> bool:
        """Whether the questions have these targets, which a test split may lack."""

    @abstractmethod
    def read(
        self, questions: QuestionDataset, rows: Tensor, images: Tensor, image_of_question: Tensor
    ) -> Tensor | None:
        """Read the targets (B, ...) of rows (B,); None if they are not known.

        ``images`` (U,) are the sorted indices of the rows' images, and ``image_of_question`` (B,)
        are indices into them; both are on the host.
        """

    @abstractmethod
    def output_options(self, vocabulary: Vocabulary) -> dict[str, Any]:
        """The model options that define the size of the model's output."""

    def inputs(self) -> dict[str, Any]:
        """Hashes of the files of the targets beside the question file."""
        return {}

    def close(self) -> None:  # noqa: B027
        """Close these files."""


class Task(ABC):
    """What a model is trained for: loss, predictions, scores, report and records.

    ``loss_weights`` are the weights of the parts of a loss that has several (``MaskTask``).

    Attributes
    ----------
    name
        The name under which the task is registered, and which models have in ``TARGETS``.
    targets
        The class of the targets.
    metric
        The name of the mean score in records and reports.
    prediction
        The type of a prediction's record; no two tasks have the same required entries.
    prediction_dtype, score_dtype
        The dtype of predictions, and the dtype in which training sums scores.
    draws
        Whether an answer is a map of the picture.
    columns, sections
        The columns of the printed report, and the keys of its sections by title.
    unit
        The entry of a report's rows that has the number of scored questions or images.
    does, gives, scored_as
        Texts for model cards: what a network does, what it returns for a question, and what its
        scores are.
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
        """The name of the mean score in figures and messages."""
        return score_title(self.metric)

    @abstractmethod
    def loss(self, output: Tensor, targets: Tensor) -> Tensor:
        """The mean loss () of outputs and targets (B, ...)."""

    @abstractmethod
    def predictions(self, output: Tensor) -> Tensor:
        """The predictions (B, ...) of outputs, in the shape of the targets."""

    @abstractmethod
    def scores(self, predictions: Tensor, targets: Tensor) -> Tensor:
        """The score (B,) of each prediction, from 0 to 1 or a boolean."""

    def question_types(self, questions: QuestionDataset) -> tuple[list[str], Tensor] | None:
        """The question types by which training averages scores; None if questions have no types.

        Returns the names of the types, and the index (N,) of each question's type, -1 for none.
        """
        return None

    @abstractmethod
    def report(
        self, predictions: Tensor, targets: Tensor, questions: QuestionDataset
    ) -> dict[str, Any]:
        """Rows of scores of predictions (N, ...): ``overall``, and by group of questions."""

    @abstractmethod
    def cells(self, row: Any) -> list[str]:
        """The cells of a report's row in the ``columns`` of the printed report."""

    def table_rows(self, report: Mapping[str, Any], **sections: bool) -> list[list[str]]:
        """The rows of the printed report below its header."""
        optional = [pair for key, pair in OPTIONAL_SECTIONS.items() if sections.get(key)]
        return section_rows(report, {**self.sections, **dict(optional)}, self.cells)

    def format_report(self, report: Mapping[str, Any], **sections: bool) -> str:
        """The report as a table; ``sections`` are the ``OPTIONAL_SECTIONS`` to show."""
        return text_table([["", *self.columns], *self.table_rows(report, **sections)])

    @abstractmethod
    def records(
        self, predictions: Tensor, targets: Tensor | None, vocabulary: Vocabulary
    ) -> list[dict[str, Any]]:
        """The task's entries of each question's ``prediction``."""

    @abstractmethod
    def words(self, predictions: Tensor, vocabulary: Vocabulary) -> list[str]:
        """Predictions or targets (B, ...) in words."""

    @abstractmethod
    def answers(self, output: Tensor, vocabulary: Vocabulary) -> list[Answer]:
        """The answers for outputs (B, ...)."""

    def certainties(self, output: Tensor, targets: Tensor | None) -> Tensor:
        """The score (B,) of each prediction, 0 without targets; or the prediction's probability."""
        if targets is None:
            return torch.zeros(len(output))
        return self.scores(self.predictions(output), targets)


TASKS: dict[str, type[Task]] = {}
_T = TypeVar("_T", bound=type[Task])


def register_task(name: str) -> Callable[[_T], _T]:
    """Decorator: register a subclass of ``Task`` for models whose ``TARGETS`` is ``name``."""

    def register(task: _T) -> _T:
        task.name = name
        TASKS[name] = task
        return task

    return register


def find_task(name: str, **loss_weights: float) -> Task:
    """The task registered under a name.

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
    """The task of a model or of a model's name; raises ``UserError`` as in ``find_task``."""
    return find_task(targets_of(model), **loss_weights)


def score_title(metric: str) -> str:
    """The name of a score in figures and messages."""
    return metric.replace("_iou", " IoU")


def read_predictions(path: Path) -> list[Prediction]:
    """Read the predictions of an evaluation; each has an image.

    Raises
    ------
    UserError
        If the file is missing, or a line is not a prediction.
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
    """The task that recorded a prediction."""
    return next(task() for task in TASKS.values() if isinstance(record, task.prediction))


def _record_type(line: bytes, path: Path) -> type[Prediction]:
    """The record type whose required entries the first line of a file has."""
    try:
        entries = msgspec.json.decode(line, type=dict[str, msgspec.Raw]).keys()
    except (msgspec.MsgspecError, UnicodeDecodeError):
        return Prediction  # reading the line reports the error
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
