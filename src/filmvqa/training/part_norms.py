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
        self._norms: dict[str, dict[str, Tensor]] = {}
        self._before: dict[str, list[Tensor]] = {}

    @torch.no_grad()
    def before_update(self) -> None:
        """Measure the gradients, and keep the weights."""
        norms = self._norms["gradient_norm"] = {}
        for name, weights in self._parts.items():
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            norms[name] = _norm(gradients, weights[0])
            self._before[name] = [weight.clone() for weight in weights]

    @torch.no_grad()
    def after_update(self) -> None:
        """Measure the change of the weights."""
        norms = self._norms["update_norm"] = {}
        for name, weights in self._parts.items():
            changes = torch._foreach_sub(list(weights), self._before.pop(name))
            norms[name] = _norm(list(changes), weights[0])

    def take(self) -> dict[str, dict[str, float]]:
        """Return the last norms as ``{"gradient_norm": {part: norm}, "update_norm": ...}``, and
        forget them."""
        measured, self._norms = self._norms, {}
        return {
            kind: {k: float(norm) for k, norm in v.items()} for kind, v in measured.items() if v
        }


def _norm(tensors: list[Tensor], like: Tensor) -> Tensor:
    if not tensors:
        return like.new_zeros(())
    norm: Tensor = torch.stack(list(torch._foreach_norm(tensors))).norm()
    return norm
