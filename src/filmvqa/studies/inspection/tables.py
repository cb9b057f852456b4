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
from filmvqa.models.protocols import as_modulated
from filmvqa.studies.inspection.answers import measure_accuracy
from filmvqa.studies.inspection.interventions import Where, add_noise, replace_film
from filmvqa.studies.inspection.settings import Parameter
from filmvqa.system.tables import csv_table
from filmvqa.tasks.reports import wilson_interval

#: Standard deviations of the noise added to γ and β.
_NOISE = (0.1, 0.2, 0.5, 1.0, 2.0)
_BINS = 60
#: Numbers of last words that are shuffled.
_SHUFFLED = (0, 2, 3, 4, 6, 8, 12)


@dataclass(frozen=True)
class Table:
    """A header and rows, for CSV and figures."""

    header: list[str]
    rows: list[list[Any]] = field(default_factory=list)

    def csv(self) -> str:
        return csv_table(self.header, self.rows, ".6g")


def bin_film(values: Tensor) -> Table:
    """Bin γ or β (N, L, C): densities by layer, cut at the 0.1% quantiles of all values."""
    flat = values.flatten()
    step = max(1, len(flat) // 1_000_000)  # torch.quantile takes 16 million values at most
    low, high = (float(q) for q in flat[::step].quantile(torch.tensor([0.001, 0.999])))
    if low == high:
        low, high = low - 0.5, high + 0.5
    edges = torch.linspace(low, high, _BINS + 1)
    counts = torch.stack([torch.histc(v, _BINS, low, high) for v in values.unbind(1)], 1)
    density = counts / counts.sum(0).clamp(min=1) / (high - low) * _BINS  # (bins, L)
    rows = torch.cat([(edges[:-1, None] + edges[1:, None]) / 2, density], 1).tolist()
    return Table(["value", *(f"layer_{i + 1}" for i in range(density.shape[1]))], rows)


def summarize_film(gamma: Tensor, beta: Tensor) -> Table:
    """Tabulate mean, deviation, range and negative share of γ and β (N, L, C) by layer."""
    rows: list[list[Any]] = []
    for name, values in (("gamma", gamma), ("beta", beta)):
        for i, v in enumerate(values.unbind(1)):
            numbers = (v.mean(), v.std(), v.min(), v.max(), (v < 0).float().mean())
            rows.append([name, i + 1, *map(float, numbers)])
    return Table(["parameter", "layer", "mean", "std", "min", "max", "negative"], rows)


def summarize_attention(words: Tensor, places: Tensor) -> Table:
    """Tabulate the effective number of words and places that each of S steps attends to.

    It is the exponential of the entropy of attention to words (N, S, T) and places (N, S, H, W),
    averaged over questions; it is k for k equal shares.
    """
    counts = [torch.special.entr(w).sum(2).exp().mean(0) for w in (words, places.flatten(2))]
    rows = [[step, *numbers] for step, numbers in enumerate(torch.stack(counts, 1).tolist(), 1)]
    return Table(["step", "words", "places"], rows)


def group_accuracy(correct: Tensor, groups: Sequence[Any], name: str) -> Table:
    """Tabulate accuracy with its 95% interval by group; questions of group None are ignored."""
    rows = []
    for value in sorted({g for g in groups if g is not None}, key=lambda v: (str(type(v)), v)):
        members = torch.tensor([g == value for g in groups])
        right, total = int((correct & members).sum()), int(members.sum())
        rows.append([value, right / total, *wilson_interval(right, total), total])
    return Table([name, "accuracy", "low", "high", "questions"], rows)


def count_confusions(answers: Tensor, truths: Tensor, names: Sequence[str]) -> Table:
    """Tabulate the share of each answer (columns) among the questions of each true answer (rows),
    for answers that occur."""
    present = sorted(set(truths.tolist()) | set(answers.tolist()), key=lambda i: names[i])
    size = len(names)
    counts = torch.bincount(truths * size + answers, minlength=size * size).view(size, size)
    matrix = counts[present][:, present]  # (A, A)
    totals = matrix.sum(1)
    shares = (matrix / totals.clamp(min=1)[:, None]).tolist()
    labels = [names[i] for i in present]
    rows = [
        [label, *row, total]
        for label, row, total in zip(labels, shares, totals.tolist(), strict=True)
    ]
    return Table(["truth", *labels, "questions"], rows)


def measure_robustness(
    model: nn.Module, loader: Loader, rows: Tensor, means: Sequence[Tensor], num_layers: int
) -> Table:
    """Measure accuracy when γ or β is replaced by its mean or gets noise, by layer and in all.

    The first row is the accuracy without a change.
    """
    generator = torch.Generator().manual_seed(0)
    table = Table(["parameter", "layer", "change", "accuracy"])
    table.rows.append(["none", "all", "none", measure_accuracy(model, loader, rows)])
    parameters: tuple[Parameter, ...] = ("gamma", "beta")
    cases = list(product(parameters, [None, *range(num_layers)], [None, *_NOISE]))
    for parameter, layer, std in tqdm(cases, desc="changed", unit="pass", leave=False):
        where: Where = {"parameter": parameter, "layers": None if layer is None else [layer]}
        if std is None:
            name, change = "mean", replace_film(*means, **where)
        else:
            name, change = f"noise {std:g}", add_noise(std, generator, **where)
        with as_modulated(model).intervene(change):
            share = measure_accuracy(model, loader, rows)
        table.rows.append([parameter, "all" if layer is None else str(layer + 1), name, share])
    return table


def measure_shuffled_words(model: nn.Module, loader: Loader, rows: Tensor) -> Table:
    """Measure accuracy when the last words of each question, before END, are shuffled.

    All words of a shorter question are shuffled.
    """
    generator = torch.Generator().manual_seed(0)
    original = loader.questions.questions
    table = Table(["shuffled", "accuracy"])
    try:
        for count in _SHUFFLED:
            shuffled = original.clone()
            for row in rows.tolist():
                end = int(loader.questions.lengths[row]) - 1  # of END; START is at 0
                first = max(1, end - count)
                order = torch.randperm(end - first, generator=generator)
                shuffled[row, first:end] = original[row, first:end][order]
            loader.questions.questions = shuffled
            table.rows.append([count, measure_accuracy(model, loader, rows)])
    finally:
        loader.questions.questions = original
    return table
