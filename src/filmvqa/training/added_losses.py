"""Losses added to the task's loss: the penalty on γ and β, and supervision by programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from filmvqa.evaluation.batches import Batch
from filmvqa.models.protocols import has_film_penalty, has_place_scores
from filmvqa.system.errors import UserError
from filmvqa.training.program_loss import program_loss
from filmvqa.training.settings import TrainerSettings


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
        self.options: dict[str, bool] = {}
        if settings.film_penalty:
            self.options["return_penalty"] = True
        if settings.program_loss:
            self.options["return_scores"] = True

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
