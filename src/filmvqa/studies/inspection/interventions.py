"""Interventions on γ and β at test time: replace, scale, shift, or add noise."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import TypedDict, Unpack

import torch
from torch import Tensor, nn

from filmvqa.evaluation.evaluate import AskedQuestions, NetworkChange
from filmvqa.evaluation.predictions import evaluating
from filmvqa.models.protocols import Modulation, as_modulated
from filmvqa.questions.dataset import padded
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.studies.inspection.settings import FilmSettings, Parameter
from filmvqa.system.errors import UserError


class Where(TypedDict, total=False):
    """Which of γ and β to change, and in which FiLM layers, counted from 0; None: in all."""

    parameter: Parameter
    layers: Sequence[int] | None


@dataclass(frozen=True)
class FilmChange:
    """A change of γ or β: ``change`` takes the values (N, L, C) and the parameter's name."""

    change: Callable[[Tensor, str], Tensor]
    parameter: Parameter = "both"
    layers: Sequence[int] | None = None

    def __call__(self, modulation: Modulation) -> Modulation:
        new = {}
        for name in ("gamma", "beta"):
            if self.parameter in (name, "both"):
                values = getattr(modulation, name)
                new[name] = self.change(values, name)
                if self.layers is not None:
                    layers = list(self.layers)
                    new[name] = values.index_copy(
                        1, torch.tensor(layers, device=values.device), new[name][:, layers]
                    )
        return modulation._replace(**new)


def build_intervention(
    settings: FilmSettings, model: nn.Module, vocabulary: Vocabulary
) -> Callable[[Modulation], Modulation]:
    """Build the intervention that settings describe.

    Raises
    ------
    UserError
        For a model without a FiLM generator, a missing layer, or a question with an unknown word.
    """
    try:
        num_layers = as_modulated(model).num_modulated
    except UserError as error:
        raise UserError(f"film: {error}") from None
    layers = None if settings.layers is None else [layer - 1 for layer in settings.layers]
    if layers is not None and max(layers) >= num_layers:
        raise UserError(
            f"film.layers={settings.layers}: this model has {num_layers} FiLM layers; choose from "
            f"1 to {num_layers}"
        )
    where: Where = {"parameter": settings.parameter, "layers": layers}
    moved = scale_and_shift(settings.scale, settings.shift, **where)
    if settings.question is None:
        return moved
    try:
        tokens = padded([vocabulary.encode(settings.question)])
    except UserError as error:  # its message begins with "question"
        raise UserError(f"film.{error}") from None
    with evaluating(model):
        other = as_modulated(model).modulate(tokens)
    replaced = replace_film(other.gamma[0], other.beta[0], **where)
    return lambda modulation: moved(replaced(modulation))


def build_network_change(settings: FilmSettings) -> NetworkChange | None:
    """Build the same intervention for an evaluation; None if nothing is changed.

    Raises
    ------
    UserError
        If the settings name parameters or layers but no change.
    """
    if not settings.is_change:
        if settings != FilmSettings():
            raise UserError(
                "film.parameter and film.layers say where γ and β are changed: give film.scale, "
                "film.shift or film.question too; film.arithmetic_on and film.pairs, how "
                "film.arithmetic does"
            )
        return None

    def change(asked: AskedQuestions) -> AbstractContextManager[None]:
        intervention = build_intervention(settings, asked.model, asked.vocabulary)
        return as_modulated(asked.model).intervene(intervention)

    return NetworkChange(settings.folder_name, {"film": settings.record}, change)


def scale_and_shift(scale: float = 1.0, shift: float = 0.0, **where: Unpack[Where]) -> FilmChange:
    """Multiply γ or β by ``scale``, then add ``shift``."""
    return FilmChange(lambda values, _: scale * values + shift, **where)


def replace_film(gamma: Tensor, beta: Tensor, **where: Unpack[Where]) -> FilmChange:
    """Replace γ or β by the same values (L, C) for all questions."""
    new = {"gamma": gamma, "beta": beta}
    return FilmChange(lambda values, name: new[name].to(values).expand_as(values), **where)


def add_noise(std: float, generator: torch.Generator, **where: Unpack[Where]) -> FilmChange:
    """Add normal noise to γ or β, drawn for each question, layer and channel."""

    def add(values: Tensor, _: str) -> Tensor:
        return values + std * torch.randn(values.shape, generator=generator).to(values)

    return FilmChange(add, **where)
