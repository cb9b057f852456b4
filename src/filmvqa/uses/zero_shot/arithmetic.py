"""Arithmetic on γ, β and keys, or on encodings, of questions in an evaluated network."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from filmvqa.evaluation.evaluate import AskedQuestions, NetworkChange
from filmvqa.models.protocols import Modulation, as_modulated
from filmvqa.questions.dataset import QuestionDataset, padded
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.studies.inspection.interventions import build_network_change
from filmvqa.studies.inspection.settings import FilmSettings
from filmvqa.system.errors import UserError
from filmvqa.system.hdf5 import open_hdf5
from filmvqa.system.hdf5_storage import read_array
from filmvqa.uses.zero_shot.rewriting import Pairs, sum_of_question

#: A question's tokens, without padding, and the weights and tokens of the questions in its sum.
Sums = Mapping[tuple[int, ...], Sequence[tuple[float, Sequence[int]]]]


def build_change(settings: FilmSettings) -> NetworkChange | None:
    """Build the change of a network that settings describe; None if nothing is changed.

    Arithmetic leaves only the questions whose phrases it rewrites.
    """
    if settings.arithmetic is None:
        return build_network_change(settings)

    def change(asked: AskedQuestions) -> AbstractContextManager[None]:
        questions = asked.loader.questions
        rows, sums = find_sums(
            questions, asked.vocabulary, settings.arithmetic or "", settings.pairs
        )
        print(f"{len(rows):,} of {len(questions):,} questions have a phrase that is rewritten")
        asked.loader.questions = questions.select(rows)
        return apply_sums(asked.model, sums, of_encodings=settings.arithmetic_on == "encoding")

    return NetworkChange(settings.folder_name, {"film": settings.record}, change)


def find_sums(
    questions: QuestionDataset, vocabulary: Vocabulary, name: str, pairs: Pairs
) -> tuple[Tensor, Sums]:
    """Find the rows (M,) of questions with a phrase to rewrite, and their sums.

    Raises
    ------
    UserError
        If the file has no programs, no question has such a phrase, or the words of a question do
        not match its program.
    """
    with open_hdf5(questions.path) as file:
        if "programs" not in file:
            raise UserError(
                f"film.arithmetic: {questions.path} has no programs, by which questions are "
                "rewritten; evaluate a split that has them"
            )
        programs = read_array(file["programs"])
    words = {index: word for word, index in vocabulary.question.items()}
    steps = {index: step for step, index in vocabulary.program.items()}
    rows, sums = [], {}
    for row, in_file in enumerate(questions.rows.tolist()):
        tokens = questions.questions[row, : int(questions.lengths[row])].tolist()
        try:
            terms = sum_of_question(
                [words[token] for token in tokens],
                [steps[int(step)] for step in programs[in_file]], name, pairs,
            )  # fmt: skip
            if terms:
                rows.append(row)
                sums[tuple(tokens)] = [
                    (weight, [vocabulary.question[word] for word in term]) for weight, term in terms
                ]
        except (ValueError, KeyError) as error:
            reason = error if isinstance(error, ValueError) else f"the vocabulary lacks {error}"
            raise UserError(
                f"film.arithmetic: {questions.path}: question {in_file}: {reason}; evaluate a "
                "split of CLEVR's questions"
            ) from None
    if not rows:
        raise UserError(
            f"film.arithmetic: no question of {questions.path} names a colour of a cube or a "
            f"cylinder that condition A {pairs}; choose another split or film.pairs"
        )
    return torch.tensor(rows), sums


def apply_sums(
    model: nn.Module, sums: Sums, *, of_encodings: bool = False
) -> AbstractContextManager[None]:
    """Replace γ, β and reads' keys of questions by their sums within the block.

    With ``of_encodings``, the sums are of encodings, before they are decoded. Layers that read
    words themselves read those of the question.

    Raises
    ------
    UserError
        For a model without γ and β, or, with ``of_encodings``, one that also decodes words.
    """
    try:
        modulated = as_modulated(model)
    except UserError as error:
        raise UserError(f"film.arithmetic: {error}") from None
    if not of_encodings:
        return _sum_modulations(model, modulated.modulate, modulated.intervene, sums)
    if getattr(model, "reads_words", False):
        raise UserError(
            "film.arithmetic_on=encoding: this network's γ and β are of words too, not of the "
            "encoding alone; choose film"
        )
    return _sum_encodings(model.get_submodule(modulated.question_parts[0]), sums)


def add_up(
    questions: Tensor, sums: Sums, compute: Callable[[Tensor], Sequence[Tensor]]
) -> list[Tensor]:
    """Sum the results of ``compute``, which takes questions (K, T), for each question (B, T).

    A question without a sum keeps its own result. Each sum is (B, ...).
    """
    tokens: list[Sequence[int]] = []
    owners, weights = [], []
    for owner, row in enumerate(questions.tolist()):
        key = tuple(token for token in row if token)
        for weight, term in sums.get(key, [(1.0, key)]):
            tokens.append(term)
            owners.append(owner)
            weights.append(weight)
    added = []
    for output in compute(padded(tokens)):  # (K, ...)
        factors = torch.tensor(weights).to(output).view(-1, *[1] * (output.dim() - 1))
        zeros = output.new_zeros(len(questions), *output.shape[1:])
        added.append(
            zeros.index_add(0, torch.tensor(owners, device=output.device), factors * output)
        )
    return added


@contextmanager
def _sum_modulations(
    model: nn.Module,
    modulate: Callable[[Tensor], Modulation],
    intervene: Callable[[Callable[[Modulation], Modulation]], AbstractContextManager[None]],
    sums: Sums,
) -> Iterator[None]:
    asked: list[Tensor] = []  # questions of the forward pass; empty while their terms are computed

    def note(module: nn.Module, inputs: tuple[Any, ...]) -> None:
        asked[:] = [inputs[1]]

    def change(modulation: Modulation) -> Modulation:
        if not asked:
            return modulation
        gamma, beta, extra, key = add_up(asked.pop(), sums, lambda others: modulate(others)[:4])
        return modulation._replace(gamma=gamma, beta=beta, extra=extra, key=key)

    noted = model.register_forward_pre_hook(note)
    try:
        with intervene(change):
            yield
    finally:
        noted.remove()


@contextmanager
def _sum_encodings(encoder: nn.Module, sums: Sums) -> Iterator[None]:
    def change(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> Tensor:
        return add_up(inputs[0], sums, lambda others: [module.forward(others)])[0]

    handle = encoder.register_forward_hook(change)
    try:
        yield
    finally:
        handle.remove()
