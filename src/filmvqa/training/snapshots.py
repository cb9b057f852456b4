"""Snapshots of a network while it trains: its answers to a few questions, and γ and β."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from filmvqa.evaluation.batches import Loader
from filmvqa.evaluation.predictions import evaluating
from filmvqa.features.images import find_pictures, read_picture
from filmvqa.models.protocols import record_modulation
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.devices import autocast
from filmvqa.system.side_output import going_on_without
from filmvqa.tasks.protocol import task_of

#: Number of questions whose γ and β are shown, and of those, whose answers are shown too.
_QUESTIONS = 64
_EXAMPLES = 8


@dataclass(frozen=True)
class Example:
    """A question and the network's answer, with the answer's probability or score.

    ``truth`` is empty if the true answer is not known, ``picture`` None if the file is missing.
    """

    question: str
    truth: str
    answer: str
    probability: float
    picture: Path | None


@dataclass(frozen=True)
class Snapshot:
    """Examples, and γ and β (N, L, C) of more questions; None for a model without FiLM layers."""

    examples: list[Example]
    gamma: Tensor | None
    beta: Tensor | None

    def by_block(self) -> Iterator[tuple[str, Tensor]]:
        """Yield γ and β (N, C) of each block with their names."""
        for name, values in (("gamma", self.gamma), ("beta", self.beta)):
            if values is not None:
                for i in range(values.shape[1]):
                    yield f"{name}/block_{i + 1}", values[:, i]


class SnapshotTaker:
    """Takes snapshots, of the same questions at each evaluation.

    Parameters
    ----------
    loader
        The validation questions.
    rows
        (N,) the questions that are scored; up to 64 of them are taken, evenly spaced.
    images
        The folder of the pictures, which may be missing.
    """

    def __init__(
        self, loader: Loader, rows: Tensor, vocabulary: Vocabulary, images: Path, precision: str
    ) -> None:
        chosen = torch.linspace(0, len(rows) - 1, min(_QUESTIONS, len(rows))).long()
        self.loader, self.rows, self.vocabulary = loader, rows[chosen], vocabulary
        self.precision = precision
        shown = loader.questions.images[self.rows[:_EXAMPLES]].tolist()
        self.pictures: list[Path | None] = [None] * len(shown)
        self._is_off = False
        with going_on_without(f"{images}: pictures for loggers"):
            pictures = find_pictures(images)
            for path in {pictures[image] for image in shown if image in pictures}:
                read_picture(path)  # show none if one cannot be read
            self.pictures = [pictures.get(image) for image in shown]

    def take(self, model: nn.Module) -> Snapshot | None:
        """Take a snapshot of a model, whose mode is kept.

        The first failure is a warning; from then on None is returned.
        """
        if not self._is_off:
            self._is_off = True
            with going_on_without("what loggers show of the network"):
                snapshot = self._take(model)
                self._is_off = False
                return snapshot
        return None

    def _take(self, model: nn.Module) -> Snapshot:
        batch = self.loader.batch(self.rows)
        with (
            evaluating(model),
            autocast(self.loader.device, self.precision),
            record_modulation(model) as modulations,
        ):
            output = model(batch.features, batch.questions, batch.image_of_question)
        count, task = len(self.pictures), task_of(model)
        output, targets = output[:count], None if batch.targets is None else batch.targets[:count]
        examples = list(map(
            Example,
            [self.vocabulary.decode(words) for words in batch.questions[:count].tolist()],
            [""] * count if targets is None else task.words(targets, self.vocabulary),
            task.words(task.predictions(output), self.vocabulary),
            task.certainties(output, targets).tolist(),
            self.pictures,
        ))  # fmt: skip
        if not modulations:
            return Snapshot(examples, None, None)
        modulation = modulations[0]
        return Snapshot(examples, modulation.gamma.float().cpu(), modulation.beta.float().cpu())
