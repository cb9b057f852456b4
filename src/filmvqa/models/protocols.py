"""Protocols by which a model describes itself.

Training, inspection, loggers, the page and the API use these protocols and never check for a class.
Models of other packages are thus treated like those of this one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, TypeGuard, runtime_checkable

import torch
from torch import Tensor, nn

from filmvqa.system.errors import UserError


class Modulation(NamedTuple):
    """Parameters computed from questions for L conditioned layers, or for one of them.

    Attributes
    ----------
    gamma, beta
        FiLM's scale and shift, (B, L, C), or (B, C) for one layer.
    extra
        Further numbers for conditionings other than FiLM, (B, L, E), or (B, E) for one layer.
    key
        Key of a layer's attentive read, followed by the keys of its sets (``PlaceSets``),
        (B, L, K), or (B, K) for one layer. K is 0 if there are no reads.
    words, padding
        States of the words (B, T, D), and a mask of padding (B, T). None if no layer of the model
        reads them.
    """

    gamma: Tensor
    beta: Tensor
    extra: Tensor
    key: Tensor
    words: Tensor | None = None
    padding: Tensor | None = None

    def layer(self, i: int) -> Modulation:
        """The parameters of layer ``i``."""
        return self._replace(
            gamma=self.gamma[:, i], beta=self.beta[:, i], extra=self.extra[:, i], key=self.key[:, i]
        )


class PlaceScores(NamedTuple):
    """Scores of the H W places of a map of ``size`` (H, W).

    Attributes
    ----------
    reads
        Scores of each block's attentive read (B, L, H W). Their softmax gives the read's weights.
    sets
        Scores of the last block's sets (B, S, H W). Their sigmoids give each place's membership.
    """

    size: tuple[int, int]
    reads: Tensor
    sets: Tensor

    @classmethod
    def of_blocks(
        cls, size: tuple[int, int], scores: Sequence[tuple[Tensor, Tensor | None]]
    ) -> PlaceScores:
        """Stack the scores of each block's read (B, N) and of its sets (B, N, S), if any."""
        reads, sets = torch.stack([read_scores for read_scores, _ in scores], 1), scores[-1][1]
        return cls(size, reads, reads[:, :0] if sets is None else sets.transpose(1, 2))


ModulationChange = Callable[[Modulation], Modulation]


@dataclass
class Activations:
    """Maps of the last forward pass, (B, C, H, W) each.

    Attributes
    ----------
    before, after
        Input and output of each FiLM layer, in the order of the blocks.
    pooled
        The map that the classifier pools. None if the network draws.
    """

    before: list[Tensor] = field(default_factory=list)
    after: list[Tensor] = field(default_factory=list)
    pooled: Tensor | None = None

    def places(self) -> Tensor:
        """The share of channels whose maximum is at each position (B, H, W).

        Constant channels, such as those that a ReLU sets to 0, are not counted.
        """
        if self.pooled is None:
            raise UserError("nothing was pooled; run the model first")
        batch, _, height, width = self.pooled.shape
        flat = self.pooled.float().cpu().flatten(2)
        counted = (flat.amax(2) > flat.amin(2)).float()  # (B, C)
        counts = torch.zeros(batch, height * width).scatter_add_(1, flat.argmax(2), counted)
        return counts.view(batch, height, width) / counted.sum(1)[:, None, None].clamp(min=1)


@dataclass
class Attention:
    """Attention of the last forward pass, at each of S steps.

    A step has weights of the words (B, T) and of the places (B, N) of maps of ``size`` (H, W).
    """

    words_by_step: list[Tensor] = field(default_factory=list)
    places_by_step: list[Tensor] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)

    def words(self) -> Tensor:
        """Attention to the words (B, S, T), on the CPU.

        Each step's weights sum to 1. START and END get some too, and padding gets none.
        """
        return _stack(self.words_by_step)

    def places(self) -> Tensor:
        """Attention to the places of the image (B, S, H, W), on the CPU; each step's sums to 1."""
        places = _stack(self.places_by_step)  # (B, S, N)
        return places.view(*places.shape[:2], *self.size)


def _stack(by_step: list[Tensor]) -> Tensor:
    if not by_step:
        raise UserError("nothing was attended to; run the model first")
    return torch.stack([weights.float().cpu() for weights in by_step], 1)


@runtime_checkable
class Modulated(Protocol):
    """A model whose layers get γ and β from questions.

    Attributes
    ----------
    num_modulated
        Number L of these layers; 0 if the model's options leave none.
    question_parts
        Names of the parts that compute γ and β from a question, such as ``encoder``.
    has_film_penalty
        Whether ``forward`` takes ``return_penalty``: γ can differ from 1, or β from 0.
    """

    question_parts: Sequence[str]

    @property
    def num_modulated(self) -> int: ...

    @property
    def has_film_penalty(self) -> bool: ...

    def modulate(self, questions: Tensor) -> Modulation:
        """Compute γ and β (B, L, C) of questions (B, T)."""

    def intervene(self, change: ModulationChange) -> AbstractContextManager[None]:
        """Within the block, compute with changed γ and β."""

    def begin_unmodulated(self) -> None:
        """Set weights so that no question changes anything: γ is its baseline and β is 0."""


@runtime_checkable
class Recorded(Protocol):
    """A model whose maps around FiLM layers can be recorded.

    ``can_record`` is false if the model's options leave no such layer.
    """

    @property
    def can_record(self) -> bool: ...

    def record_activations(self) -> AbstractContextManager[Activations]:
        """Within the block, each forward pass stores its maps in the yielded object."""


@runtime_checkable
class Attentive(Protocol):
    """A model that attends to words and places in steps."""

    def record_attention(self) -> AbstractContextManager[Attention]:
        """Within the block, each forward pass stores its attention in the yielded object."""


@runtime_checkable
class Counted(Protocol):
    """A model that is fitted by counting training questions, without gradients."""

    def fit(self, questions: Tensor, answers: Tensor, types: Tensor) -> None:
        """Count questions (N, T) with their answers and types (N,)."""


def is_modulated(model: nn.Module) -> TypeGuard[Modulated]:
    """Whether some layer of the model gets γ and β from questions."""
    return isinstance(model, Modulated) and model.num_modulated > 0


def has_film_penalty(model: nn.Module) -> bool:
    """Whether the model computes a penalty on the deviations of γ and β."""
    return is_modulated(model) and model.has_film_penalty


def has_place_scores(model: nn.Module) -> bool:
    """Whether the model's ``forward`` takes ``return_scores``, to return ``PlaceScores``."""
    return bool(getattr(model, "has_place_scores", False))


def can_record(model: nn.Module) -> bool:
    """Whether ``record_activations`` works for the model."""
    return isinstance(model, Recorded) and model.can_record


def looks_at_images(model: nn.Module) -> bool:
    """Whether answers depend on the image. A class that ignores it sets ``blind = True``."""
    return not getattr(model, "blind", False)


def as_modulated(model: nn.Module) -> Modulated:
    """The model itself. Raise ``UserError`` if it is not modulated."""
    if not is_modulated(model):
        raise UserError("this model has no γ and β; FiLM models have")
    return model


def record_activations(model: nn.Module) -> AbstractContextManager[Activations]:
    """``Recorded.record_activations``. Raise ``UserError`` if the model has no FiLM layers."""
    if not isinstance(model, Recorded) or not model.can_record:
        raise UserError("this network has no FiLM layers whose maps can be recorded")
    return model.record_activations()


def record_attention(model: nn.Module) -> AbstractContextManager[Attention]:
    """``Attentive.record_attention``. Raise ``UserError`` if the model does not attend in steps."""
    if not isinstance(model, Attentive):
        raise UserError("this network has no steps whose attention can be recorded; MAC has")
    return model.record_attention()


@contextmanager
def record_modulation(model: nn.Module) -> Iterator[list[Modulation]]:
    """Within the block, each forward pass of a modulated model appends γ and β to the list."""
    recorded: list[Modulation] = []
    if not is_modulated(model):
        yield recorded
        return

    def record(modulation: Modulation) -> Modulation:
        recorded.append(modulation)
        return modulation

    with model.intervene(record):
        yield recorded
