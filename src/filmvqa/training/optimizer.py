"""Optimizers, weight decay by part, and learning-rate schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from filmvqa.errors import UserError


def in_part(name: str, part: str) -> bool:
    """Whether a weight's name belongs to a part: ``film_generator`` has
    ``film_generator.decoder.0.weight``."""
    return name == part or name.startswith(f"{part}.")


def check_parts(model: nn.Module, parts: Sequence[str], key: str) -> None:
    """Raise ``UserError`` for a part that has no weight in the model."""
    names = [name for name, _ in model.named_parameters()]
    for part in parts:
        if not any(in_part(name, part) for name in names):
            present = ", ".join(dict.fromkeys(name.split(".")[0] for name in names))
            raise UserError(f"{key}: the model has no part {part!r}; it has {present}")


def build_optimizer(
    model: nn.Module,
    name: str = "adam",
    lr: float = 3e-4,
    weight_decay: float = 1e-5,
    part_weight_decay: Mapping[str, float | None] | None = None,
    decay_norms_and_biases: bool = True,
    fused: bool = True,
) -> Optimizer:
    """An optimizer of the weights that require gradients.

    ``adam`` adds weight decay to the gradient, as the paper's L2 does (section 4.1); ``adamw``
    decouples it (Loshchilov and Hutter 2019).

    Parameters
    ----------
    part_weight_decay
        Weight decay of parts by name, such as ``film_generator``; None: that of the rest.
    decay_norms_and_biases
        False leaves biases and the scales of norms (weights of one dimension) without decay.
    fused
        One pass over the weights a step instead of a dozen.
    """
    optimizers: dict[str, type[Optimizer]] = {"adam": Adam, "adamw": AdamW}
    if name not in optimizers:
        raise UserError(f"optim.name={name!r}; choose from {', '.join(optimizers)}")
    parts = {k: v for k, v in (part_weight_decay or {}).items() if v is not None}
    check_parts(model, list(parts), "optim.part_weight_decay")
    if lr <= 0 or min(weight_decay, *parts.values(), 0) < 0:
        raise UserError(
            f"optim.lr={lr}, weight_decay={weight_decay}, part_weight_decay={parts}; "
            "need lr > 0 and decays ≥ 0"
        )
    groups: dict[float, list[nn.Parameter]] = {}
    for label, weight in model.named_parameters():
        if not weight.requires_grad:
            continue
        decay = next((v for part, v in parts.items() if in_part(label, part)), weight_decay)
        if weight.ndim <= 1 and not decay_norms_and_biases:
            decay = 0.0
        groups.setdefault(decay, []).append(weight)
    # A model that is not trained by gradient has one empty group.
    settings: list[dict[str, Any]] = [
        {"params": weights, "weight_decay": decay} for decay, weights in groups.items()
    ] or [{"params": []}]
    return optimizers[name](settings, lr=lr, fused=fused)  # type: ignore[call-arg]


def build_schedule(
    optimizer: Optimizer, name: str, warmup_steps: int, total_steps: int
) -> LambdaLR:
    """``constant`` (the paper's) or ``cosine`` to zero at step ``total_steps``; both rise linearly
    over the first ``warmup_steps``."""
    if name not in ("constant", "cosine"):
        raise UserError(f"optim.schedule={name!r}; choose from constant, cosine")

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / (warmup_steps + 1))
        if name == "constant":
            return rise
        decay_steps = max(total_steps - warmup_steps, 1)
        progress = min(max(step - warmup_steps, 0) / decay_steps, 1.0)
        return rise * 0.5 * (1.0 + math.cos(math.pi * progress))

    return LambdaLR(optimizer, factor)
