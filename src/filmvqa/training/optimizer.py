"""Optimizers, weight decay per module, and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from filmvqa.models.protocols import is_modulated
from filmvqa.system.errors import UserError
from filmvqa.training.settings import OptimSettings


def belongs_to_module(parameter_name: str, module_name: str) -> bool:
    """Whether a parameter is in a module: ``film_generator.decoder.0.weight`` is in
    ``film_generator`` and in ``film_generator.decoder``."""
    return parameter_name == module_name or parameter_name.startswith(f"{module_name}.")


def check_module_names(model: nn.Module, module_names: Sequence[str], key: str) -> None:
    """Raise ``UserError`` if the model has no parameter in one of the modules.

    ``key`` is the configuration key that gives the names.
    """
    parameter_names = [name for name, _ in model.named_parameters()]
    for module_name in module_names:
        if not any(belongs_to_module(name, module_name) for name in parameter_names):
            children = ", ".join(dict.fromkeys(name.split(".")[0] for name in parameter_names))
            raise UserError(f"{key}: the model has no part {module_name!r}; it has {children}")


def build_optimizer(model: nn.Module, settings: OptimSettings) -> Optimizer:
    """Build the optimizer of the parameters that require gradients.

    Raises
    ------
    UserError
        If ``part_weight_decay`` names a module that the model lacks.
    """
    module_decay = {k: v for k, v in settings.part_weight_decay.items() if v is not None}
    check_module_names(model, list(module_decay), settings.key_of("part_weight_decay"))
    parameters_by_decay: dict[float, list[nn.Parameter]] = {}
    for parameter_name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        decays = (v for k, v in module_decay.items() if belongs_to_module(parameter_name, k))
        decay = next(decays, settings.weight_decay)
        if parameter.ndim <= 1 and not settings.decay_norms_and_biases:
            decay = 0.0
        parameters_by_decay.setdefault(decay, []).append(parameter)
    # torch needs a group, also for a model without trainable weights.
    groups: list[dict[str, Any]] = [
        {"params": parameters, "weight_decay": decay}
        for decay, parameters in parameters_by_decay.items()
    ] or [{"params": []}]
    optimizer_type = Adam if settings.name == "adam" else AdamW
    return optimizer_type(groups, lr=settings.lr, fused=settings.fused)


def clipped_parts(model: nn.Module) -> list[list[nn.Parameter]]:
    """Split the parameters into the two parts that ``trainer.grad_clip_by_part`` clips separately.

    The first part is the encoder with the FiLM generator (the "generator" of the original code),
    the second is the rest of the network.

    Raises
    ------
    UserError
        If the model has no FiLM generator.
    """
    parts: tuple[list[nn.Parameter], list[nn.Parameter]] = ([], [])
    parameters = list(model.named_parameters())
    if not is_modulated(model):
        raise UserError(
            "trainer.grad_clip_by_part: this model has no FiLM generator to clip separately; give "
            "false"
        )
    for name, parameter in parameters:
        is_question = any(belongs_to_module(name, part) for part in model.question_parts)
        parts[0 if is_question else 1].append(parameter)
    return list(parts)


def build_schedule(optimizer: Optimizer, settings: OptimSettings, total_steps: int) -> LambdaLR:
    """Build the learning-rate schedule of a run of ``total_steps`` steps."""
    warmup_steps = settings.warmup_steps

    def factor(step: int) -> float:
        warmup = min(1.0, (step + 1) / (warmup_steps + 1))
        if settings.schedule == "constant":
            return warmup
        decay_steps = max(total_steps - warmup_steps, 1)
        progress = min(max(step - warmup_steps, 0) / decay_steps, 1.0)
        return warmup * 0.5 * (1.0 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)
