"""How large gradients and updates are, by part of the model."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class PartNorms:
    """Norms of the gradients, before clipping, and of the updates of single steps, for each part
    of a model that is trained (a part is a child of the model's module).

    The two methods surround what changes gradients and weights; the norms stay on the device until
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
        """After the gradients were computed, before they are clipped."""
        for name, weights in self._parts.items():
            gradients = [weight.grad for weight in weights if weight.grad is not None]
            self._norms[f"gradient_norm/{name}"] = _norm(gradients, weights[0])
            self._before[name] = [weight.clone() for weight in weights]

    @torch.no_grad()
    def after_update(self) -> None:
        """After the step of the optimizer."""
        for name, weights in self._parts.items():
            changes = torch._foreach_sub(list(weights), self._before.pop(name))
            self._norms[f"update_norm/{name}"] = _norm(list(changes), weights[0])

    def take(self) -> dict[str, dict[str, float]]:
        """The norms that were measured last, by kind and part; empty if there were none."""
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
