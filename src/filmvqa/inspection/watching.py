"""The maps of a FiLM network: before and after each FiLM layer, and what is pooled."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from filmvqa.errors import UserError
from filmvqa.models.blocks import FilmedResBlock
from filmvqa.models.film_net import FilmNet


@dataclass
class Maps:
    """What the last forward pass computed, (B, C, H, W) each.

    Attributes
    ----------
    before, after
        The input and the output of each FiLM layer, in the order of the blocks.
    pooled
        The map of which the classifier takes the maximum.
    """

    before: list[Tensor] = field(default_factory=list)
    after: list[Tensor] = field(default_factory=list)
    pooled: Tensor | None = None

    def places(self) -> Tensor:
        """The shares of channels that have their maximum at each position (B, H, W). Channels that
        are the same everywhere, such as those that a ReLU has closed, are not counted."""
        if self.pooled is None:
            raise UserError("nothing was pooled; run the model first")
        batch, _, height, width = self.pooled.shape
        flat = self.pooled.float().cpu().flatten(2)
        counted = (flat.amax(2) > flat.amin(2)).float()  # (B, C)
        counts = torch.zeros(batch, height * width).scatter_add_(1, flat.argmax(2), counted)
        return counts.view(batch, height, width) / counted.sum(1)[:, None, None].clamp(min=1)


def can_be_watched(model: nn.Module) -> bool:
    """Whether a model is a FiLM network whose blocks have a layer for the conditioning."""
    return isinstance(model, FilmNet) and any(b.condition is not None for b in _blocks(model))


def _blocks(model: FilmNet) -> list[FilmedResBlock]:
    return [cast(FilmedResBlock, block) for block in model.blocks]


@contextmanager
def watched(model: nn.Module) -> Iterator[Maps]:
    """Within the block, each forward pass of a FiLM network leaves its maps in what is yielded.
    Blocks are computed step by step meanwhile, not as one operation.

    Raises
    ------
    UserError
        For another model, or one whose blocks' conditioning is no layer of its own (``concat``).
    """
    if not can_be_watched(model):
        raise UserError("this network has no FiLM layers whose maps could be watched")
    model = cast(FilmNet, model)
    blocks = _blocks(model)
    layers = [block.condition for block in blocks if block.condition is not None]
    maps = Maps()

    def begin(module: nn.Module, inputs: Any) -> None:
        maps.before.clear()
        maps.after.clear()
        maps.pooled = None

    def at_film(module: nn.Module, inputs: Any, output: Tensor) -> None:
        maps.before.append(inputs[0])
        maps.after.append(output)
        if model.classifier.takes_branch:
            maps.pooled = torch.relu(output)

    def at_pool(module: nn.Module, inputs: Any, output: Tensor) -> None:
        maps.pooled = output

    with ExitStack() as stack:
        handles = [model.register_forward_pre_hook(begin)]
        handles += [layer.register_forward_hook(at_film) for layer in layers]
        if not model.classifier.takes_branch:
            handles.append(model.classifier.project.register_forward_hook(at_pool))
        for handle in handles:
            stack.callback(handle.remove)
        for block in blocks:
            stack.callback(setattr, block, "fusible", block.fusible)
            block.fusible = False
        yield maps
