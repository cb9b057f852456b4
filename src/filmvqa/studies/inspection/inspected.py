"""What an inspection knows of the questions that it asks, and the parts of its page."""

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

#: Questions whose answers with changed γ and β are compared, and of which points are drawn.
FEWER = 2000


@dataclass(frozen=True)
class Section:
    """A part of the page: figures with their tables by file name, what they show, and what the
    paper found."""

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
        (N,) the questions in their file, and at most ``FEWER`` of these.
    truths, correct
        (N,) the true answers, and whether the network's are these.
    records
        The questions with programs; None where their JSON is not here.
    pictures
        The files of their images; None where they are not here.
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
        """Where the questions of some rows stand among those that are asked."""
        places: list[int] = torch.searchsorted(self.rows, rows).tolist()
        return places

    def on_pictures(self, batch: Batch, places: Tensor) -> Tensor:
        """Shares (B, ..., h, w) of places of a batch's features, as maps of the pictures."""
        features = for_each_question(batch.features, batch.image_of_question)
        spec = self.loader.store.feature_spec
        maps = [on_picture(spec, *of) for of in zip(features, places, strict=True)]
        return torch.stack(maps)

    def write_question(self, i: int) -> str:
        """The words of a question that is asked."""
        return self.vocabulary.decode(self.questions.questions[self.rows[i]].tolist())

    def write_answer(self, i: int) -> str:
        """A question, its answer, and the truth if that is another."""
        answer, truth = (self.names[int(of[i])] for of in (self.answers.answers, self.truths))
        correction = "" if self.correct[i] else f" (wrong: {truth})"
        return f"{self.write_question(i)}: {answer}{correction}"


def choose_rows(rows: Tensor, count: int | None, seed: int) -> Tensor:
    """All of the rows, or ``count`` of them, sorted."""
    if count is None or count >= len(rows):
        return rows
    generator = torch.Generator().manual_seed(seed)
    return rows[torch.randperm(len(rows), generator=generator)[:count]].sort().values
