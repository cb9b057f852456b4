"""What networks compute inside: activations around FiLM layers, and MAC's attention."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from filmvqa.models.blocks import FilmedResBlock
from filmvqa.models.film_net import FilmNet
from filmvqa.models.mac import MacNet
from filmvqa.system.errors import UserError


@dataclass
class FilmActivations:
    """What the last forward pass computed, (B, C, H, W) each.

    Attributes
    ----------
    before, after
        The input and the output of each FiLM layer, in the order of the blocks.
    pooled
        The map of which the classifier takes the maximum; None of a network that draws.
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


def has_film_layers(model: nn.Module) -> bool:
    """Whether a model is a FiLM network whose blocks have a layer for the conditioning."""
    return isinstance(model, FilmNet) and any(b.condition is not None for b in _blocks(model))


def _blocks(model: FilmNet) -> list[FilmedResBlock]:
    return [cast(FilmedResBlock, block) for block in model.blocks]


@contextmanager
def record_activations(model: nn.Module) -> Iterator[FilmActivations]:
    """Within the block, each forward pass of a FiLM network leaves its maps in what is yielded.
    Blocks are computed step by step meanwhile, not as one operation.

    Raises
    ------
    UserError
        For another model, or one whose blocks' conditioning is no layer of its own (``concat``).
    """
    if not has_film_layers(model):
        raise UserError("this network has no FiLM layers whose activations could be recorded")
    model = cast(FilmNet, model)
    blocks = _blocks(model)
    layers = [block.condition for block in blocks if block.condition is not None]
    classifier: Any = getattr(model, "classifier", None)
    maps = FilmActivations()

    def begin(module: nn.Module, inputs: Any) -> None:
        maps.before.clear()
        maps.after.clear()
        maps.pooled = None

    def at_film(module: nn.Module, inputs: Any, output: Tensor) -> None:
        maps.before.append(inputs[0])
        maps.after.append(output)
        if classifier is not None and classifier.takes_branch:
            maps.pooled = torch.relu(output)

    def at_pool(module: nn.Module, inputs: Any, output: Tensor) -> None:
        maps.pooled = output

    with ExitStack() as stack:
        handles = [model.register_forward_pre_hook(begin)]
        handles += [layer.register_forward_hook(at_film) for layer in layers]
        if classifier is not None and not classifier.takes_branch:
            handles.append(classifier.project.register_forward_hook(at_pool))
        for handle in handles:
            stack.callback(handle.remove)
        for block in blocks:
            stack.callback(setattr, block, "fusible", block.fusible)
            block.fusible = False
        yield maps


@dataclass
class Attention:
    """Where MAC looked in the last forward pass, at each of its S steps."""

    _words: list[Tensor] = field(default_factory=list)
    _places: list[Tensor] = field(default_factory=list)
    _size: tuple[int, int] = (0, 0)

    def words(self) -> Tensor:
        """The control unit's attention to the words (B, S, T), on the CPU: each step's sums to 1,
        START and END get some too, and padding gets none."""
        return self._stacked(self._words)

    def places(self) -> Tensor:
        """The read unit's attention to the places of the image (B, S, H, W), on the CPU: each
        step's sums to 1."""
        places = self._stacked(self._places)  # (B, S, N)
        return places.view(*places.shape[:2], *self._size)

    def _stacked(self, by_step: list[Tensor]) -> Tensor:
        if not by_step:
            raise UserError("nothing was attended to; run the model first")
        return torch.stack([weights.float().cpu() for weights in by_step], 1)


@contextmanager
def record_attention(model: nn.Module) -> Iterator[Attention]:
    """Within the block, each forward pass of a MAC network leaves its attention in what is yielded.

    Raises
    ------
    UserError
        For another model.
    """
    if not isinstance(model, MacNet):
        raise UserError("this network has no steps whose attention could be read; MAC has")
    attention = Attention()

    def begin(module: nn.Module, inputs: Any) -> None:
        attention._words.clear()
        attention._places.clear()

    def at_stem(module: nn.Module, inputs: Any, output: Tensor) -> None:
        attention._size = (output.shape[2], output.shape[3])

    def into(weights: list[Tensor]) -> Callable[[nn.Module, Any, Tensor], None]:
        return lambda module, inputs, output: weights.append(output)

    with ExitStack() as stack:
        for handle in (
            model.register_forward_pre_hook(begin),
            model.stem.register_forward_hook(at_stem),
            model.control.softmax.register_forward_hook(into(attention._words)),
            model.read.softmax.register_forward_hook(into(attention._places)),
        ):
            stack.callback(handle.remove)
        yield attention
