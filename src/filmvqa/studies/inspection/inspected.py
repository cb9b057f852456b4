"""The data that the sections of an inspection share."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from filmvqa.backbones.clevr_slots import on_picture
from filmvqa.evaluation.batches import Batch
from filmvqa.evaluation.evaluate import AskedQuestions
from filmvqa.features.images import find_pictures
from filmvqa.models.vision import for_each_question
from filmvqa.questions.dataset import QuestionDataset
from filmvqa.studies.inspection.answers import collect_answers
from filmvqa.studies.inspection.settings import InspectSettings
from filmvqa.studies.inspection.tables import Table
from filmvqa.studies.sheets import read_by_index
from filmvqa.worlds.engine.schema import Question

#: Number of questions that are drawn as points, and answered again with changed γ and β.
FEWER = 2000


@dataclass(frozen=True)
class Section:
    """A section of the page: its text, the paper's finding, the names of its figures, and tables
    by file name."""

    title: str
    text: str
    paper: str
    figures: list[str]
    tables: dict[str, Table] = field(default_factory=dict)


class Inspected:
    """A network's answers to N questions of a split, computed once for all sections.

    Attributes
    ----------
    output
        The folder of the figures.
    rows, fewer
        (N,) rows of the questions in their file; at most ``FEWER`` of them.
    truths, correct
        (N,) the true answers; whether the network's answers equal them.
    records
        The questions with programs; None without their JSON.
    pictures
        The image files of the questions; None for missing ones.
    """

    def __init__(self, asked: AskedQuestions, output: Path, settings: InspectSettings) -> None:
        self.asked, self.split, self.output = asked, settings.split, output
        self.model, self.loader, self.vocabulary = asked.model, asked.loader, asked.vocabulary
        self.questions: QuestionDataset = asked.loader.questions
        every = torch.arange(len(self.questions))
        self.rows = choose_rows(every, settings.max_questions, settings.seed)
        self.fewer = choose_rows(self.rows, FEWER, settings.seed)
        self.answers = collect_answers(self.model, self.loader, self.rows, progress=True)
        self.names = self.vocabulary.answers()
        truths = self.questions.answers
        assert truths is not None
        self.truths = truths[self.rows]
        self.correct = self.answers.answers == self.truths
        path = asked.layout.question_json(self.split)
        records = read_by_index(path) if path.exists() else {}
        self.records: list[Question | None] = [
            records.get(i) for i in self.questions.original_index[self.rows].tolist()
        ]
        pictures = find_pictures(asked.layout.image_folder(self.split))
        self.pictures = [pictures.get(int(i)) for i in self.questions.images[self.rows]]

    def find_places(self, rows: Tensor) -> list[int]:
        """The positions of some rows among the inspected rows."""
        places: list[int] = torch.searchsorted(self.rows, rows).tolist()
        return places

    def on_pictures(self, batch: Batch, places: Tensor) -> Tensor:
        """Resample shares (B, ..., h, w) of places of a batch's features to the pictures."""
        features = for_each_question(batch.features, batch.image_of_question)
        spec = self.loader.store.feature_spec
        maps = [on_picture(spec, *pair) for pair in zip(features, places, strict=True)]
        return torch.stack(maps)

    def write_question(self, i: int) -> str:
        """The words of an inspected question."""
        return self.vocabulary.decode(self.questions.questions[self.rows[i]].tolist())

    def write_answer(self, i: int) -> str:
        """A question with its answer, and with the truth if the answer is wrong."""
        answer, truth = self.names[int(self.answers.answers[i])], self.names[int(self.truths[i])]
        correction = "" if self.correct[i] else f" (wrong: {truth})"
        return f"{self.write_question(i)}: {answer}{correction}"


def choose_rows(rows: Tensor, count: int | None, seed: int) -> Tensor:
    """Choose ``count`` of the rows at random, sorted; None: all."""
    if count is None or count >= len(rows):
        return rows
    generator = torch.Generator().manual_seed(seed)
    return rows[torch.randperm(len(rows), generator=generator)[:count]].sort().values
