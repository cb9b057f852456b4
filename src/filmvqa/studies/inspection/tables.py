"""The numbers behind an inspection's figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from filmvqa.evaluation.batches import Loader
from filmvqa.evaluation.predictions import evaluating
from filmvqa.models.protocols import as_modulated
from filmvqa.questions.dataset import padded
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.studies.inspection.answers import accuracy
from filmvqa.studies.inspection.consistency import comparison_of
from filmvqa.studies.inspection.interventions import add_noise, replace_film
from filmvqa.studies.inspection.settings import Parameter
from filmvqa.system.tables import csv_table
from filmvqa.tasks.reports import wilson_interval
from filmvqa.worlds.engine.schema import Question

#: Standard deviations of the noise that is added to γ and β.
NOISE = (0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class Table:
    """Rows with a header, for CSV and figures."""

    header: list[str]
    rows: list[list[Any]] = field(default_factory=list)

    def csv(self) -> str:
        return csv_table(self.header, self.rows, ".6g")


def histograms(values: Tensor, bins: int = 60) -> Table:
    """Of γ or β (N, L, C): the density in bins of each layer, cut at the 0.1% quantiles of all."""
    flat = values.flatten()
    step = max(1, len(flat) // 1_000_000)  # torch.quantile takes 16 million values at most
    low, high = (float(q) for q in flat[::step].quantile(torch.tensor([0.001, 0.999])))
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = torch.linspace(low, high, bins + 1)
    centres = (edges[:-1] + edges[1:]) / 2
    layers = range(values.shape[1])
    counts = [torch.histc(values[:, i], bins, low, high) for i in layers]
    density = [c / c.sum().clamp(min=1) / (high - low) * bins for c in counts]
    rows = [[float(x), *(float(d[j]) for d in density)] for j, x in enumerate(centres)]
    return Table(["value", *(f"layer_{i + 1}" for i in layers)], rows)


def film_statistics(gamma: Tensor, beta: Tensor) -> Table:
    """Mean, standard deviation, range and share below 0 of γ and β (N, L, C) by layer."""
    rows: list[list[Any]] = []
    for name, values in (("gamma", gamma), ("beta", beta)):
        for i in range(values.shape[1]):
            v = values[:, i]
            numbers = (v.mean(), v.std(), v.min(), v.max(), (v < 0).float().mean())
            rows.append([name, i + 1, *map(float, numbers)])
    return Table(["parameter", "layer", "mean", "std", "min", "max", "negative"], rows)


def attention_by_step(words: Tensor, places: Tensor) -> Table:
    """How many words and places each of S steps attends to, of attention to words (N, S, T) and to
    places (N, S, H, W): the exponential of the entropy, which is k for k equal shares, averaged
    over questions."""
    table = Table(["step", "words", "places"])
    counts = [torch.special.entr(w).sum(2).exp().mean(0) for w in (words, places.flatten(2))]
    for step, (of_words, of_places) in enumerate(zip(*counts, strict=True), 1):
        table.rows.append([step, float(of_words), float(of_places)])
    return table


def grouped(correct: Tensor, groups: Sequence[Any], name: str) -> Table:
    """Accuracy with its 95% interval, by group of questions; None is no group."""
    rows = []
    for value in sorted({g for g in groups if g is not None}, key=lambda v: (str(type(v)), v)):
        members = torch.tensor([g == value for g in groups])
        right, total = int((correct & members).sum()), int(members.sum())
        rows.append([value, right / total, *wilson_interval(right, total), total])
    return Table([name, "accuracy", "low", "high", "questions"], rows)


def confusion(answers: Tensor, truths: Tensor, names: Sequence[str]) -> Table:
    """How often each true answer (rows) gets each answer (columns), as shares of its questions,
    for answers that occur."""
    present = sorted(set(truths.tolist()) | set(answers.tolist()), key=lambda i: names[i])
    rows = []
    for truth in present:
        members = answers[truths == truth]
        counts = [int((members == given).sum()) for given in present]
        total = max(1, len(members))
        rows.append([names[truth], *(count / total for count in counts), len(members)])
    return Table(["truth", *(names[i] for i in present), "questions"], rows)


def robustness(
    model: nn.Module,
    loader: Loader,
    rows: Tensor,
    means: tuple[Tensor, Tensor],
    num_layers: int,
) -> Table:
    """Accuracy when γ or β is its mean over questions, or gets noise: of all layers, and of each.

    The first row is without a change.
    """
    generator = torch.Generator().manual_seed(0)
    table = Table(["parameter", "layer", "change", "accuracy"])
    table.rows.append(["none", "all", "none", accuracy(model, loader, rows)])
    parameters: tuple[Parameter, ...] = ("gamma", "beta")
    places = [None, *range(num_layers)]
    total = len(parameters) * len(places) * (1 + len(NOISE))
    with tqdm(total=total, desc="changed", unit="pass", leave=False) as bar:
        for parameter, layer in product(parameters, places):
            layers = None if layer is None else [layer]
            changes = {"mean": replace_film(*means, parameter=parameter, layers=layers)}
            changes |= {
                f"noise {std:g}": add_noise(std, generator, parameter=parameter, layers=layers)
                for std in NOISE
            }
            for name, change in changes.items():
                with as_modulated(model).intervene(change):
                    share = accuracy(model, loader, rows)
                label = "all" if layer is None else str(layer + 1)
                table.rows.append([parameter, label, name, share])
                bar.update()
    return table


def shuffled_words(
    model: nn.Module, loader: Loader, rows: Tensor, counts: Sequence[int] = (0, 2, 3, 4, 6, 8, 12)
) -> Table:
    """Accuracy when the last words of each question are shuffled: so many of them, END not counted.

    A question of fewer words is shuffled whole.
    """
    generator = torch.Generator().manual_seed(0)
    original = loader.questions.questions
    table = Table(["shuffled", "accuracy"])
    try:
        for count in counts:
            shuffled = original.clone()
            for row in rows.tolist():
                end = int(loader.questions.lengths[row]) - 1  # of END; START is at 0
                first = max(1, end - count)
                order = torch.randperm(end - first, generator=generator)
                shuffled[row, first:end] = original[row, first:end][order]
            loader.questions.questions = shuffled
            table.rows.append([count, accuracy(model, loader, rows)])
    finally:
        loader.questions.questions = original
    return table


def consistency(
    model: nn.Module,
    loader: Loader,
    vocabulary: Vocabulary,
    questions: Sequence[Question | None],
    answers: Tensor,
    rows: Tensor,
) -> Table:
    """Comparisons of numbers beside the counts of their sets, which the network is asked besides.

    Of those whose counts have numbers as answers: how often the comparison agrees with the counts,
    and is right, by comparison. ``questions`` are those of ``rows``, with their programs, and
    ``answers`` (N,) what the network answered to them.
    """
    texts = vocabulary.answers()
    table = Table(["comparison", "questions", "agree", "right", "right if counts are right"])
    found = [
        (i, comparison)
        for i, question in enumerate(questions)
        if question is not None and question.program
        and (comparison := comparison_of(question.program)) is not None
    ]  # fmt: skip
    if not found:
        return table
    truths = loader.questions.answers
    assert truths is not None
    images = loader.questions.images[rows]
    asked = [text for _, comparison in found for text in comparison.counts]
    about = [int(images[i]) for i, _ in found for _ in range(2)]
    counts = [texts[i] for i in _ask(model, loader, vocabulary, asked, about).tolist()]
    results: dict[str, list[tuple[bool, bool, bool]]] = {}
    for (i, comparison), first, second in zip(found, counts[::2], counts[1::2], strict=True):
        if first.isdigit() and second.isdigit():
            implied = comparison.implied(int(first), int(second))
            given, truth = texts[int(answers[i])], texts[int(truths[rows[i]])]
            result = (given == implied, given == truth, implied == truth)
            for name in (comparison.function, "all"):
                results.setdefault(name, []).append(result)
    for name, outcomes in sorted(results.items()):
        agree, right, counted = (torch.tensor(v).double() for v in zip(*outcomes, strict=True))
        share = float(right[counted.bool()].mean()) if counted.any() else float("nan")
        row = [name, len(outcomes), float(agree.mean()), float(right.mean()), share]
        table.rows.append(row)
    return table


def _ask(
    model: nn.Module,
    loader: Loader,
    vocabulary: Vocabulary,
    texts: Sequence[str],
    images: Sequence[int],
) -> Tensor:
    """The answers (M,) to questions about images of the loader's store."""
    encoded = [vocabulary.encode(text) for text in texts]
    answers = []
    with evaluating(model):
        for first in range(0, len(texts), loader.batch_size):
            part = slice(first, first + loader.batch_size)
            distinct, index = torch.unique(torch.tensor(images[part]), return_inverse=True)
            features = loader.store.read(distinct)
            answers.append(
                model(features, padded(encoded[part]), index.to(features.device)).argmax(1).cpu()
            )
    return torch.cat(answers)
