"""Interventions on γ and β at test time: fixed, scaled, disturbed, or those of another question."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from torch import Tensor, nn

from filmvqa.evaluation.evaluate import NetworkChange
from filmvqa.evaluation.predictions import evaluating
from filmvqa.models.film_generator import FilmGenerator, Modulation
from filmvqa.models.film_net import FilmNet
from filmvqa.questions.dataset import padded
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.studies.inspection.settings import FilmSettings, Parameter
from filmvqa.system.errors import UserError

Intervention = Callable[[Modulation], Modulation]


@contextmanager
def intervene(model: nn.Module, intervention: Intervention) -> Iterator[None]:
    """Within the block, the model computes with changed γ and β.

    Raises
    ------
    UserError
        For a model without a FiLM generator.
    """
    generator = _generator_of(model)

    def hook(module: nn.Module, inputs: object, output: Modulation) -> Modulation:
        return intervention(output)

    handle = generator.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _generator_of(model: nn.Module) -> FilmGenerator:
    generator = getattr(model, "film_generator", None)
    if not isinstance(generator, FilmGenerator):
        raise UserError("this model has no γ and β to change; FiLM models have")
    return generator


def build_intervention(
    settings: FilmSettings, model: nn.Module, vocabulary: Vocabulary
) -> Intervention:
    """The intervention that settings describe, for a model.

    Raises
    ------
    UserError
        For a model without a FiLM generator, a layer that it does not have, or a question with an
        unknown word.
    """
    try:
        num_layers = _generator_of(model).num_layers
    except UserError as error:
        raise UserError(f"film: {error}") from None
    layers = None if settings.layers is None else [layer - 1 for layer in settings.layers]
    if layers is not None and max(layers) >= num_layers:
        raise UserError(
            f"film.layers={settings.layers}: this model has {num_layers} FiLM layers; choose from "
            f"1 to {num_layers}"
        )
    parameter = settings.parameter
    moved = scale_and_shift(
        scale=settings.scale, shift=settings.shift, parameter=parameter, layers=layers
    )
    if settings.question is None:
        return moved
    try:
        tokens = padded([vocabulary.encode(settings.question)])
    except UserError as error:  # which begins with "question"
        raise UserError(f"film.{error}") from None
    with evaluating(model):
        other = cast(FilmNet, model).modulate(tokens)
    replaced = replace_film(other.gamma[0], other.beta[0], parameter=parameter, layers=layers)
    return lambda modulation: moved(replaced(modulation))


def build_network_change(settings: FilmSettings) -> NetworkChange | None:
    """The same for an evaluation; None if nothing is changed.

    Raises
    ------
    UserError
        For settings that say where, but not what.
    """
    if not settings.is_change:
        if settings != FilmSettings():
            raise UserError(
                "film.parameter and film.layers say where γ and β are changed: give film.scale, "
                "film.shift or film.question too"
            )
        return None
    return NetworkChange(
        settings.folder_name,
        {"film": settings.record},
        lambda model, vocabulary: intervene(model, build_intervention(settings, model, vocabulary)),
    )


def scale_and_shift(
    *,
    scale: float = 1.0,
    shift: float = 0.0,
    parameter: Parameter = "both",
    layers: Sequence[int] | None = None,
) -> Intervention:
    """γ or β times ``scale`` plus ``shift``; of some layers, or (None) of all."""
    return _of_layers(lambda values, _: scale * values + shift, parameter, layers)


def replace_film(
    gamma: Tensor,
    beta: Tensor,
    *,
    parameter: Parameter = "both",
    layers: Sequence[int] | None = None,
) -> Intervention:
    """γ and β (L, C) that are the same for all questions, such as their means or those of another
    question."""
    given = {"gamma": gamma, "beta": beta}
    return _of_layers(
        lambda values, name: given[name].to(values).expand_as(values), parameter, layers
    )


def add_noise(
    std: float,
    generator: torch.Generator,
    *,
    parameter: Parameter = "both",
    layers: Sequence[int] | None = None,
) -> Intervention:
    """Normal noise added to γ or β, drawn anew for each question, layer and channel."""

    def add(values: Tensor, _: str) -> Tensor:
        noise = torch.randn(values.shape, generator=generator)
        return values + std * noise.to(values)

    return _of_layers(add, parameter, layers)


def _of_layers(
    function: Callable[[Tensor, str], Tensor], parameter: Parameter, layers: Sequence[int] | None
) -> Intervention:
    def change(modulation: Modulation) -> Modulation:
        new = {}
        for name in ("gamma", "beta"):
            values = getattr(modulation, name)
            if parameter in (name, "both"):
                new[name] = function(values, name)
                if layers is not None:
                    of_layers = new[name][:, list(layers)]
                    new[name] = values.clone()
                    new[name][:, list(layers)] = of_layers
        return modulation._replace(**new)

    return change
