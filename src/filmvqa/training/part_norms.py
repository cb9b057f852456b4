"""Norms of gradients and updates, by part of the model."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PartNorms:
    """Norms of the gradients before clipping, and of the updates, of single training steps.

    A part is a child module that has trainable weights. Call ``before_update`` before gradients are
    clipped, and ``after_update`` after the optimizer's step. The norms stay on the device until
    ``take``.
    """

    def __init__(self, model: nn.Module) -> None:
        parts = {
            name: [weight for weight in part.parameters() if weight.requires_grad]
            for name, part in model.named_children()
        }
        self._parts = {name: weights for name, weights in parts.items() if weights}
        self._norms: dict[str, Tensor] = {}
        self._before: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def before_update(self) -> None:
        """Measure the gradients, and keep the weights."""
        for name, weights in self._parts.items():
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            self._norms[f"gradient_norm/{name}"] = _norm(gradients, weights[0])
            self._before[name] = [weight.clone() for weight in weights]

    @torch.no_grad()
    def after_update(self) -> None:
        """Measure the change of the weights."""
        for name, weights in self._parts.items():
            changes = torch._foreach_sub(list(weights), self._before.pop(name))
            self._norms[f"update_norm/{name}"] = _norm(list(changes), weights[0])

    def take(self) -> dict[str, dict[str, float]]:
        """Return the last norms as ``{"gradient_norm": {part: norm}, "update_norm": ...}``, and
        forget them."""
        record: dict[str, dict[str, float]] = {}
        for key, norm in self._norms.items():
            kind, _, name = key.partition("/")
            record.setdefault(kind, {})[name] = float(norm)
        self._norms.clear()
        return record


def _norm(tensors: list[Tensor], like: Tensor) -> Tensor:
    if not tensors:
        return like.new_zeros(())
    norm: Tensor = torch.stack(list(torch._foreach_norm(tensors))).norm()
    return norm
