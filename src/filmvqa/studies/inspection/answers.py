"""A checkpoint's answers to the questions of a split, with their scores, γ and β."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import h5py
import torch
from torch import Tensor, nn
from tqdm import tqdm

from filmvqa.evaluation.batches import Loader
from filmvqa.evaluation.predictions import evaluating
from filmvqa.models.protocols import as_modulated, record_modulation
from filmvqa.system.files import write_file


@dataclass(frozen=True)
class Answers:
    """The answers of a network to N questions.

    Attributes
    ----------
    scores : Tensor
        (N, A) logits in float32.
    gamma, beta : Tensor or None
        (N, L, C); None for a network without FiLM layers.
    """

    scores: Tensor
    gamma: Tensor | None
    beta: Tensor | None

    @property
    def answers(self) -> Tensor:
        """The most probable answers (N,)."""
        return self.scores.argmax(1)

    @property
    def probabilities(self) -> Tensor:
        """The probabilities (N,) of these answers."""
        return torch.softmax(self.scores, 1).amax(1)


def collect_answers(
    model: nn.Module, loader: Loader, rows: Tensor, *, progress: bool = False
) -> Answers:
    """Answer the questions ``rows`` (N,), in their order."""
    scores: list[Tensor] = []
    order = torch.argsort(loader.questions.images[rows], stable=True)
    with (
        evaluating(model),
        record_modulation(model) as modulations,
        tqdm(total=len(rows), desc="answer", unit="q", leave=False, disable=not progress) as bar,
    ):
        for batch in loader.sequential(rows[order]):
            logits = model(batch.features, batch.questions, batch.image_of_question)
            scores.append(logits.float().cpu())
            bar.update(len(logits))
    back = torch.argsort(order)
    gamma = beta = None
    if modulations:
        gamma = torch.cat([m.gamma.float().cpu() for m in modulations])[back]
        beta = torch.cat([m.beta.float().cpu() for m in modulations])[back]
    return Answers(torch.cat(scores)[back], gamma, beta)


def measure_accuracy(model: nn.Module, loader: Loader, rows: Tensor) -> float:
    """The share of correct answers to the questions ``rows``."""
    truths = loader.questions.answers
    assert truths is not None
    return float((collect_answers(model, loader, rows).answers == truths[rows]).double().mean())


def average_film(model: nn.Module, questions: Tensor) -> list[Tensor]:
    """The means (L, C) of γ and of β over questions (N, T), padded with 0."""
    sums = torch.zeros((), dtype=torch.float64)
    with evaluating(model):
        for part in torch.split(questions.long(), 512):
            modulation = as_modulated(model).modulate(part)
            both = torch.stack([modulation.gamma, modulation.beta])  # (2, B, L, C)
            sums = sums + both.double().sum(1).cpu()
    return list(sums.float() / len(questions))


def write_answers(path: Path, answers: Answers, question_index: Tensor, texts: list[str]) -> None:
    """Write answers to an HDF5 file: ``scores`` (N, A), ``gamma`` and ``beta`` (N, L, C),
    ``question_index`` (N,), and the attribute ``answers``."""
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file["scores"] = answers.scores.numpy()
        file["question_index"] = question_index.numpy()
        if answers.gamma is not None and answers.beta is not None:
            file["gamma"], file["beta"] = answers.gamma.numpy(), answers.beta.numpy()
        file.attrs.create("answers", texts, dtype=h5py.string_dtype())
    write_file(path, content.getvalue())
