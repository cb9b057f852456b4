"""What a model can tell of itself. Training, inspection, loggers, the page and the API ask by these
protocols, never for a class, so that a model of another package is treated like those of this one.
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
    """The parameters that questions give to L conditioned layers, or to one of them.

    Attributes
    ----------
    gamma, beta
        FiLM's scale and shift, (B, L, C), or (B, C) for one layer.
    extra
        Further numbers for conditionings other than FiLM, (B, L, E), or (B, E) for one layer.
    key
        What a layer's attentive read looks for, and then its sets (``PlaceSets``), (B, L, K), or
        (B, K) for one layer; K is 0 if there are no reads.
    words, padding
        The words' states (B, T, D), and which are padding (B, T), of a model of which some layer
        reads them; else None.
    """

    gamma: Tensor
    beta: Tensor
    extra: Tensor
    key: Tensor
    words: Tensor | None = None
    padding: Tensor | None = None

    def layer(self, i: int) -> Modulation:
        """The parameters of layer ``i`` alone."""
        return self._replace(
            gamma=self.gamma[:, i], beta=self.beta[:, i], extra=self.extra[:, i], key=self.key[:, i]
        )


class PlaceScores(NamedTuple):
    """What a network looks for in a map of ``size`` (H, W), as scores of its H W places.

    Attributes
    ----------
    reads
        Those of each block's attentive read (B, L, H W), of whose softmax it is the mean.
    sets
        Those of the last block's sets (B, S, H W), whose sigmoids say what belongs to them.
    """

    size: tuple[int, int]
    reads: Tensor
    sets: Tensor

    @classmethod
    def of_blocks(
        cls, size: tuple[int, int], scores: Sequence[tuple[Tensor, Tensor | None]]
    ) -> PlaceScores:
        """From those of each block's read (B, N) and, if it has any, of its sets (B, N, S)."""
        reads, sets = torch.stack([of_read for of_read, _ in scores], 1), scores[-1][1]
        return cls(size, reads, reads[:, :0] if sets is None else sets.transpose(1, 2))


ModulationChange = Callable[[Modulation], Modulation]


@dataclass
class Activations:
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


@dataclass
class Attention:
    """Where a network looked in the last forward pass, at each of its S steps: weights of the words
    (B, T) and of the places (B, N) a step, on maps of ``size`` (H, W)."""

    words_by_step: list[Tensor] = field(default_factory=list)
    places_by_step: list[Tensor] = field(default_factory=list)
    size: tuple[int, int] = (0, 0)

    def words(self) -> Tensor:
        """The attention to the words (B, S, T), on the CPU: each step's sums to 1, START and END
        get some too, and padding gets none."""
        return _stack(self.words_by_step)

    def places(self) -> Tensor:
        """The attention to the places of the image (B, S, H, W), on the CPU: each step's sums to
        1."""
        places = _stack(self.places_by_step)  # (B, S, N)
        return places.view(*places.shape[:2], *self.size)


def _stack(by_step: list[Tensor]) -> Tensor:
    if not by_step:
        raise UserError("nothing was attended to; run the model first")
    return torch.stack([weights.float().cpu() for weights in by_step], 1)


@runtime_checkable
class Modulated(Protocol):
    """A model whose questions give γ and β to layers.

    Attributes
    ----------
    num_modulated
        Number L of these layers; 0 if the model's options leave none.
    question_parts
        The names of the parts that compute γ and β from a question, such as ``encoder``.
    has_film_penalty
        Whether ``forward`` takes ``return_penalty``: γ can deviate from 1, or β from 0.
    """

    question_parts: Sequence[str]

    @property
    def num_modulated(self) -> int: ...

    @property
    def has_film_penalty(self) -> bool: ...

    def modulate(self, questions: Tensor) -> Modulation:
        """γ and β (B, L, C) of questions (B, T)."""

    def intervene(self, change: ModulationChange) -> AbstractContextManager[None]:
        """Within the block, compute with changed γ and β."""

    def begin_unmodulated(self) -> None:
        """Set weights so that no question changes anything: γ at its baseline, β at 0."""


@runtime_checkable
class Recorded(Protocol):
    """A model whose maps around its FiLM layers can be recorded; ``can_record`` is false if its
    options leave none."""

    @property
    def can_record(self) -> bool: ...

    def record_activations(self) -> AbstractContextManager[Activations]:
        """Within the block, each forward pass leaves its maps in what is yielded."""


@runtime_checkable
class Attentive(Protocol):
    """A model that attends to words and places in steps."""

    def record_attention(self) -> AbstractContextManager[Attention]:
        """Within the block, each forward pass leaves its attention in what is yielded."""


@runtime_checkable
class Counted(Protocol):
    """A model that counts training questions instead of being trained by gradient."""

    def fit(self, questions: Tensor, answers: Tensor, types: Tensor) -> None:
        """Count questions (N, T) with their answers and types (N,)."""


def is_modulated(model: nn.Module) -> TypeGuard[Modulated]:
    """Whether the model's questions give γ and β to some layer."""
    return isinstance(model, Modulated) and model.num_modulated > 0


def has_film_penalty(model: nn.Module) -> bool:
    """Whether the model computes a penalty on the deviations of γ and β."""
    return is_modulated(model) and model.has_film_penalty


def has_place_scores(model: nn.Module) -> bool:
    """Whether the model's ``forward`` takes ``return_scores``, and gives ``PlaceScores`` then."""
    return bool(getattr(model, "has_place_scores", False))


def can_record(model: nn.Module) -> bool:
    """Whether ``record_activations`` is possible."""
    return isinstance(model, Recorded) and model.can_record


def looks_at_images(model: nn.Module) -> bool:
    """Whether the model's answers depend on the image: unless its class says ``blind = True``."""
    return not getattr(model, "blind", False)


def as_modulated(model: nn.Module) -> Modulated:
    """The model, whose questions give γ and β to some layer; ``UserError`` for another."""
    if not is_modulated(model):
        raise UserError("this model has no γ and β; FiLM models have")
    return model


def record_activations(model: nn.Module) -> AbstractContextManager[Activations]:
    """As ``Recorded.record_activations``; ``UserError`` for a model that has no such layers."""
    if not isinstance(model, Recorded) or not model.can_record:
        raise UserError("this network has no FiLM layers whose maps could be recorded")
    return model.record_activations()


def record_attention(model: nn.Module) -> AbstractContextManager[Attention]:
    """As ``Attentive.record_attention``; ``UserError`` for a model that does not attend so."""
    if not isinstance(model, Attentive):
        raise UserError("this network has no steps whose attention could be read; MAC has")
    return model.record_attention()


@contextmanager
def record_modulation(model: nn.Module) -> Iterator[list[Modulation]]:
    """Within the block, each forward pass appends its γ and β to what is yielded; nothing, of a
    model that has none."""
    recorded: list[Modulation] = []
    if not is_modulated(model):
        yield recorded
        return

    def record(modulation: Modulation) -> Modulation:
        recorded.append(modulation)
        return modulation

    with model.intervene(record):
        yield recorded
