"""Changes of γ and β at test time: fixed, scaled, disturbed, or those of another question."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import torch
from torch import Tensor, nn

from filmvqa.errors import UserError
from filmvqa.models.film_generator import Modulation

#: What is changed; ``both`` are γ and β.
Parameter = Literal["gamma", "beta", "both"]
Change = Callable[[Modulation], Modulation]


@contextmanager
def changed(model: nn.Module, change: Change) -> Iterator[None]:
    """Within the block, the model computes with changed γ and β.

    Raises
    ------
    UserError
        For a model without a FiLM generator.
    """
    generator = getattr(model, "film_generator", None)
    if not isinstance(generator, nn.Module):
        raise UserError("this model has no γ and β to change; FiLM models have")

    def hook(module: nn.Module, inputs: object, output: Modulation) -> Modulation:
        return change(output)

    handle = generator.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def affine(
    *,
    scale: float = 1.0,
    shift: float = 0.0,
    parameter: Parameter = "both",
    layers: Sequence[int] | None = None,
) -> Change:
    """γ or β times ``scale`` plus ``shift``; of some layers, or (None) of all."""
    return _of_layers(lambda values, _: scale * values + shift, parameter, layers)


def fixed(
    gamma: Tensor,
    beta: Tensor,
    *,
    parameter: Parameter = "both",
    layers: Sequence[int] | None = None,
) -> Change:
    """γ and β (L, C) that are the same for all questions, such as their means or those of another
    question."""
    given = {"gamma": gamma, "beta": beta}
    return _of_layers(
        lambda values, name: given[name].to(values).expand_as(values), parameter, layers
    )


def disturbed(
    std: float,
    generator: torch.Generator,
    *,
    parameter: Parameter = "both",
    layers: Sequence[int] | None = None,
) -> Change:
    """Normal noise added to γ or β, drawn anew for each question, layer and channel."""

    def add(values: Tensor, _: str) -> Tensor:
        noise = torch.randn(values.shape, generator=generator)
        return values + std * noise.to(values)

    return _of_layers(add, parameter, layers)


def _of_layers(
    function: Callable[[Tensor, str], Tensor], parameter: Parameter, layers: Sequence[int] | None
) -> Change:
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
