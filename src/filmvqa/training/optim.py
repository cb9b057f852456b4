"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math

from torch import nn
from torch.optim import Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR

from filmvqa.errors import UserError


def build_optimizer(
    model: nn.Module, name: str = "adam", lr: float = 3e-4, weight_decay: float = 1e-5
) -> Optimizer:
    """``adam`` adds weight decay to the gradient, as the paper's L2 does (section 4.1);
    ``adamw`` decouples it (Loshchilov and Hutter 2019)."""
    kinds: dict[str, type[Optimizer]] = {"adam": Adam, "adamw": AdamW}
    if name not in kinds:
        raise UserError(f"optim.name={name!r}; choose from {', '.join(kinds)}")
    if lr <= 0 or weight_decay < 0:
        raise UserError(f"optim.lr={lr}, optim.weight_decay={weight_decay}; need lr > 0, decay ≥ 0")
    return kinds[name](model.parameters(), lr=lr, weight_decay=weight_decay)  # type: ignore[call-arg]


def build_schedule(optimizer: Optimizer, name: str, warmup: int, total: int) -> LambdaLR:
    """``constant`` (the paper's) or ``cosine`` to zero at step ``total``; both rise linearly
    over the first ``warmup`` steps."""
    if name not in ("constant", "cosine"):
        raise UserError(f"optim.schedule={name!r}; choose from constant, cosine")

    def factor(step: int) -> float:
        rise = min(1.0, (step + 1) / (warmup + 1))
        if name == "constant":
            return rise
        passed = min(max(step - warmup, 0) / max(total - warmup, 1), 1.0)
        return rise * 0.5 * (1.0 + math.cos(math.pi * passed))

    return LambdaLR(optimizer, factor)
