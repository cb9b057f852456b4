"""Losses added to the task's loss: the penalty on γ and β, and supervision by programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from filmvqa.backbones.clevr_slots import slot_positions
from filmvqa.evaluation.batches import Batch
from filmvqa.models.protocols import PlaceScores, has_film_penalty, has_place_scores
from filmvqa.system.devices import at_least_float32
from filmvqa.system.errors import UserError
from filmvqa.training.settings import TrainerSettings

#: The place of an object that no place shows.
_NOWHERE = -1


class AddedLosses:
    """The added losses whose weight in the settings is not 0.

    ``options`` are the keyword arguments that make the model's ``forward`` return the inputs of
    these losses. ``spec`` is the feature spec of the training features.

    Raises
    ------
    UserError
        If the model cannot compute the inputs of one of the losses.
    """

    def __init__(
        self, model: nn.Module, settings: TrainerSettings, spec: Mapping[str, Any] | None
    ) -> None:
        if settings.film_penalty and not has_film_penalty(model):
            raise UserError("trainer.film_penalty: this model has no γ and β to penalise; give 0")
        if settings.program_loss and not has_place_scores(model):
            raise UserError(
                "trainer.program_loss: this model reads no maps; film_reads and film_counts do"
            )
        self.settings, self.spec = settings, spec
        weights = {"return_penalty": settings.film_penalty, "return_scores": settings.program_loss}
        self.options = {option: True for option, weight in weights.items() if weight}

    def weighted(self, returned: Iterator[Any], batch: Batch) -> Tensor | float:
        """The weighted sum () of these losses; ``returned`` are the model's outputs after the
        first."""
        total: Tensor | float = 0.0
        if self.settings.film_penalty:
            total = total + self.settings.film_penalty * next(returned)
        if self.settings.program_loss:
            loss = program_loss(next(returned), batch, self.spec)
            total = total + self.settings.program_loss * loss
        return total


def program_loss(scores: PlaceScores, batch: Batch, spec: Mapping[str, Any] | None) -> Tensor:
    """The mean loss () of a batch's questions.

    The read of block k should find the question's k-th referent: its loss is the cross-entropy of
    the referent's place, averaged over referents. The k-th set of the last block should be the k-th
    set that the program counts: its loss is the binary cross-entropy, averaged over the places that
    contain an object's centre. How much the other places count is learned by weights of places that
    do not depend on the question.

    Parameters
    ----------
    scores
        The network's scores of places for the batch's questions.
    batch
        A batch with the objects that its programs name.
    spec
        The feature spec, which says whether the features are slots.

    Raises
    ------
    UserError
        If features are slots and the network's map has another number of places, or if the batch
        has no programs, as in a benchmark.
    """
    if batch.named is None:
        raise UserError(
            "trainer.program_loss: the questions of a benchmark have no programs; give 0"
        )
    referents, sets, positions = batch.named
    reads, set_scores = at_least_float32(scores.reads), at_least_float32(scores.sets)
    slots = slot_positions(spec, batch.features)
    if slots is not None and slots.shape[1] != reads.shape[2]:
        raise UserError(
            f"trainer.program_loss: the network has {reads.shape[2]} places for "
            f"{slots.shape[1]} slots; give model.stem.strides=[1]"
        )
    if slots is None:
        places = _places_in_map(positions, scores.size)
    else:
        places = _nearest_slots(positions, slots)
    places = places[batch.image_of_question]  # (B, O)

    count = min(referents.shape[1], reads.shape[1])
    referents = referents[:, :count]
    targets = places.gather(1, referents.clamp(min=0)).masked_fill(referents < 0, _NOWHERE)
    of_reads = F.cross_entropy(
        reads[:, :count].flatten(0, 1), targets.flatten(), ignore_index=_NOWHERE, reduction="none"
    ).view_as(targets)  # (B, R)
    loss = _mean(of_reads, targets != _NOWHERE)

    count = min(sets.shape[1], set_scores.shape[1])
    sets = sets[:, :count, None]
    is_inside = sets >> torch.arange(places.shape[1], device=sets.device) & 1  # (B, S, O)
    shown = F.one_hot(places + 1, reads.shape[2] + 1)[..., 1:].to(reads.dtype)  # (B, O, N)
    targets = (is_inside.to(reads.dtype) @ shown).clamp(max=1)  # (B, S, N)
    is_asked = (sets >= 0) & (shown.sum(1, keepdim=True) > 0)
    of_sets = F.binary_cross_entropy_with_logits(set_scores[:, :count], targets, reduction="none")
    return (loss + _mean(of_sets, is_asked)).mean()


def _mean(losses: Tensor, counts: Tensor) -> Tensor:
    """The mean (B,) of each question's losses (B, ...) where ``counts``; 0 if none counts."""
    total = (losses * counts).flatten(1).sum(1)
    return total / counts.flatten(1).sum(1).clamp(min=1)


def _places_in_map(positions: Tensor, size: tuple[int, int]) -> Tensor:
    """The places (U, O) of positions (U, O, 2) in a map of ``size`` (H, W)."""
    height, width = size
    is_there = positions.isfinite().all(2)
    x, y = positions.nan_to_num(0.0).clamp(0, 1 - 1e-6).unbind(2)
    places = (y * height).long() * width + (x * width).long()
    return places.masked_fill(~is_there, _NOWHERE)


def _nearest_slots(positions: Tensor, slots: Tensor) -> Tensor:
    """The slots (U, O) nearest to positions (U, O, 2), among slots at (U, N, 2).

    A position gets no slot if another position is nearer to its nearest slot: the front end missed
    the object.
    """
    exact = "donot_use_mm_for_euclid_dist"
    distances = torch.cdist(positions, slots, compute_mode=exact)  # (U, O, N)
    distances = distances.nan_to_num(torch.inf, posinf=torch.inf)
    nearest, slot = distances.min(2)
    is_mutual = nearest <= distances.amin(1).gather(1, slot)
    return slot.masked_fill(~(is_mutual & nearest.isfinite()), _NOWHERE)
