"""How long and how to train."""

from __future__ import annotations

from dataclasses import dataclass

from filmvqa.devices import PRECISIONS
from filmvqa.errors import UserError


@dataclass(frozen=True)
class TrainerSettings:
    """The trainer's options, as in ``configs/trainer``.

    Attributes
    ----------
    max_steps
        Ends training if ``max_epochs`` does not.
    eval_every
        Steps between evaluations; None: an epoch.
    log_every
        Steps between records of the training loss.
    patience
        Evaluations without a better validation accuracy after which training ends.
    grad_clip
        Largest norm of the gradient.
    grad_clip_by_part
        Whether the gradients of encoder with FiLM generator and of the network are clipped apart,
        as in the original code, instead of together.
    questions_per_image
        Above 1, images are drawn, and this many of their questions taken together, so that what
        does not depend on the question is computed once for them.
    shuffle
        Draw the questions in another order each epoch; otherwise in the file's order.
    channels_last
        Memory order of features.
    compile
        Compile what follows the encoder with torch.compile.
    train_sample, val_sample
        Number of training questions scored beside validation, to show overfitting, and of
        validation questions scored while training (None: all).
    ema_decay
        Decay of an exponential moving average of the weights, which is what is scored; None: none.
    film_penalty
        Weight in the loss of the model's penalty on the deviations of γ and β.
    checkpoint_minutes, checkpoint_steps
        How often ``last.pt`` is written between evaluations; None: not by time, not by steps.
    """

    batch_size: int = 64
    max_epochs: int = 80
    max_steps: int | None = None
    eval_every: int | None = None
    log_every: int = 50
    patience: int | None = 5
    grad_clip: float | None = None
    grad_clip_by_part: bool = False
    precision: str = "auto"
    questions_per_image: int = 1
    shuffle: bool = True
    channels_last: bool = True
    compile: bool = False
    train_sample: int = 2000
    val_sample: int | None = None
    ema_decay: float | None = None
    film_penalty: float = 0.0
    checkpoint_minutes: float | None = 10.0
    checkpoint_steps: int | None = None

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UserError(
                f"trainer.precision={self.precision!r}; choose from {', '.join(PRECISIONS)}"
            )
        for name in (
            "batch_size",
            "max_epochs",
            "max_steps",
            "eval_every",
            "log_every",
            "patience",
            "questions_per_image",
            "checkpoint_steps",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"trainer.{name}={value}; must be at least 1")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise UserError(f"trainer.ema_decay={self.ema_decay}; must lie between 0 and 1")
        if self.film_penalty < 0:
            raise UserError(f"trainer.film_penalty={self.film_penalty}; must not be negative")
        if self.checkpoint_minutes is not None and self.checkpoint_minutes <= 0:
            raise UserError(
                f"trainer.checkpoint_minutes={self.checkpoint_minutes}; must be above 0"
            )

    def total_steps(self, batches_per_epoch: int) -> int:
        """Steps of a run that nothing ends early."""
        steps = self.max_epochs * batches_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)
