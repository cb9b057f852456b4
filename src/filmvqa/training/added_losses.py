"""What is added to a task's loss: the penalty on γ and β, and supervision by programs."""

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
    """The losses that settings give a weight.

    ``options`` are those of the model's ``forward``, by which it returns what they need; ``spec``
    is that of its features.

    Raises
    ------
    UserError
        If the model does not have what one of them needs.
    """

    def __init__(
        self, model: nn.Module, settings: TrainerSettings, spec: Mapping[str, Any] | None
    ) -> None:
        if settings.film_penalty and not has_film_penalty(model):
            raise UserError(
                "trainer.film_penalty: this model has no γ and β whose deviations to penalise"
            )
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
        """Their weighted sum () for a batch, of what the model has returned beside its output."""
        total: Tensor | float = 0.0
        if self.settings.film_penalty:
            total = total + self.settings.film_penalty * next(returned)
        if self.settings.program_loss:
            loss = program_loss(next(returned), batch, self.spec)
            total = total + self.settings.program_loss * loss
        return total
