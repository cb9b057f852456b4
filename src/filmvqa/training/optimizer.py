"""Optimizers, weight decay per module, and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from filmvqa.errors import UserError


def belongs_to_module(parameter_name: str, module_name: str) -> bool:
    """Whether a parameter is in a module of the model: ``film_generator.decoder.0.weight`` is in
    ``film_generator`` and in ``film_generator.decoder``."""
    return parameter_name == module_name or parameter_name.startswith(f"{module_name}.")


def check_module_names(model: nn.Module, module_names: Sequence[str], key: str) -> None:
    """Raise ``UserError``, which names the config key ``key``, for a module that has no parameter
    in the model."""
    parameter_names = [name for name, _ in model.named_parameters()]
    for module_name in module_names:
        if not any(belongs_to_module(name, module_name) for name in parameter_names):
            children = ", ".join(dict.fromkeys(name.split(".")[0] for name in parameter_names))
            raise UserError(f"{key}: the model has no part {module_name!r}; it has {children}")


def build_optimizer(
    model: nn.Module,
    name: str = "adam",
    lr: float = 3e-4,
    weight_decay: float = 1e-5,
    part_weight_decay: Mapping[str, float | None] | None = None,
    decay_norms_and_biases: bool = True,
    fused: bool = True,
) -> Optimizer:
    """An optimizer of the parameters that require gradients.

    ``adam`` adds weight decay to the gradient, as the paper does (section 4.1); ``adamw`` decouples
    it from the gradient (Loshchilov and Hutter 2019).

    Parameters
    ----------
    part_weight_decay
        Weight decay by the name of a module, such as ``film_generator``; None is
        ``weight_decay``.
    decay_norms_and_biases
        Whether weight decay applies to parameters of one dimension: biases, and the scales of
        normalization layers.
    fused
        Whether the optimizer updates the parameters in one pass per step instead of several.

    Raises
    ------
    UserError
        For an unknown optimizer or module, a learning rate that is not positive, or a negative
        weight decay.
    """
    optimizers: dict[str, type[Optimizer]] = {"adam": Adam, "adamw": AdamW}
    if name not in optimizers:
        raise UserError(f"optim.name={name!r}; choose from {', '.join(optimizers)}")
    module_decay = {k: v for k, v in (part_weight_decay or {}).items() if v is not None}
    check_module_names(model, list(module_decay), "optim.part_weight_decay")
    if lr <= 0 or min(weight_decay, *module_decay.values(), 0) < 0:
        raise UserError(
            f"optim.lr={lr}, weight_decay={weight_decay}, part_weight_decay={module_decay}; "
            "need lr > 0 and decays ≥ 0"
        )
    parameters_by_decay: dict[float, list[nn.Parameter]] = {}
    for parameter_name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = (v for k, v in module_decay.items() if belongs_to_module(parameter_name, k))
        decay = next(decays, weight_decay)
        if parameter.ndim <= 1 and not decay_norms_and_biases:
            decay = 0.0
        parameters_by_decay.setdefault(decay, []).append(parameter)
    # A model that is not trained by gradient has one empty group.
    groups: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": decay}
        for decay, parameters in parameters_by_decay.items()
    ] or [{"params": []}]
    return optimizers[name](groups, lr=lr, fused=fused)  # type: ignore[call-arg]


def clipped_parts(model: nn.Module) -> list[list[nn.Parameter]]:
    """The parameters of the parts whose gradients ``trainer.grad_clip_by_part`` clips apart: the
    encoder with the FiLM generator, which is the original code's generator, and the network, which
    is all else.

    Raises
    ------
    UserError
        For a model without a FiLM generator.
    """
    parts: dict[bool, list[nn.Parameter]] = {True: [], False: []}
    for name, parameter in model.named_parameters():
        parts[name.startswith(("encoder.", "film_generator."))].append(parameter)
    if getattr(model, "film_generator", None) is None:
        raise UserError(
            "trainer.grad_clip_by_part: this model has no FiLM generator to clip apart; leave it "
            "false"
        )
    return [parts[True], parts[False]]


def depends_on_total(schedule: str) -> bool:
    """Whether the learning rates of a schedule depend on the run's number of steps."""
    return schedule != "constant"


def build_schedule(
    optimizer: Optimizer, name: str, warmup_steps: int, total_steps: int
) -> LambdaLR:
    """A learning-rate schedule.

    ``constant`` is the paper's; ``cosine`` decays to zero at step ``total_steps``. Both start with
    a linear warm-up of ``warmup_steps`` steps.
    """
    if name not in ("constant", "cosine"):
        raise UserError(f"optim.schedule={name!r}; choose from constant, cosine")

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / (warmup_steps + 1))
        if name == "constant":
            return warmup
        decay_steps = max(total_steps - warmup_steps, 1)
        progress = min(max(step - warmup_steps, 0) / decay_steps, 1.0)
        return warmup * 0.5 * (1.0 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)
