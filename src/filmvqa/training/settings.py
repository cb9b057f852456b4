"""How long and how to train: the settings below ``configs/trainer``, ``optim`` and ``logger``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from filmvqa.settings.typed import (
    AboveZero,
    FrozenBatchNorm,
    Name,
    NotNegative,
    PathText,
    Positive,
    Precision,
    Settings,
)

_WarmupSteps = Annotated[
    int, Meta(ge=0, le=2**31 - 1, description="the number of steps of the warmup, 0 or more")
]


@dataclass(frozen=True)
class TrainerSettings(Settings):
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
    bce_weight, dice_weight
        Weights in the loss of masks of binary cross-entropy and of 1 minus the Dice coefficient.
    film_penalty
        Weight in the loss of the model's penalty on the deviations of γ and β.
    sync_batch_norm
        Whether batch norm normalises by all processes' parts of a batch; otherwise by each one's
        own, which for two processes is the batch norm of a batch of half the size.
    keep_best
        How many of the best checkpoints are kept: ``best.pt``, and of more than one each under its
        step.
    checkpoint_minutes, checkpoint_steps
        How often ``last.pt`` is written between evaluations; None: not by time, not by steps.
    """

    node: ClassVar[str] = "trainer"

    batch_size: Positive = 64
    max_epochs: Positive = 80
    max_steps: Positive | None = None
    eval_every: Positive | None = None
    log_every: Positive = 50
    patience: Positive | None = 5
    grad_clip: AboveZero | None = None
    grad_clip_by_part: bool = False
    precision: Precision = "auto"
    questions_per_image: Positive = 1
    shuffle: bool = True
    channels_last: bool = True
    compile: bool = False
    sync_batch_norm: bool = True
    train_sample: Positive | None = 2000
    val_sample: Positive | None = None
    ema_decay: Annotated[float, Meta(gt=0.0, lt=1.0)] | None = None
    bce_weight: NotNegative = 1.0
    dice_weight: NotNegative = 1.0
    film_penalty: NotNegative = 0.0
    keep_best: Positive = 1
    checkpoint_minutes: AboveZero | None = 10.0
    checkpoint_steps: Positive | None = None

    def total_steps(self, batches_per_epoch: int) -> int:
        """Steps of a run that nothing ends early."""
        steps = self.max_epochs * batches_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)


@dataclass(frozen=True)
class OptimSettings(Settings):
    """The optimizer and the schedule of its learning rate, as in ``configs/optim``.

    ``adam`` adds weight decay to the gradient, as the paper does (section 4.1); ``adamw`` decouples
    it from the gradient (Loshchilov and Hutter 2019).

    Attributes
    ----------
    part_weight_decay
        Weight decay by the name of a module, such as ``film_generator``; None is
        ``weight_decay``.
    decay_norms_and_biases
        Whether weight decay applies to parameters of one dimension: biases, and the scales of
        normalization layers.
    fused
        Whether the optimizer updates the parameters in one pass per step instead of several.
    schedule
        ``constant`` is the paper's; ``cosine`` decays to zero at the last step.
    warmup_steps
        Both schedules start with a linear warm-up of so many steps.
    """

    node: ClassVar[str] = "optim"

    name: Literal["adam", "adamw"] = "adam"
    lr: AboveZero = 3e-4
    weight_decay: NotNegative = 1e-5
    part_weight_decay: dict[str, NotNegative | None] = field(default_factory=dict)
    decay_norms_and_biases: bool = True
    fused: bool = True
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: _WarmupSteps = 0


@dataclass(frozen=True)
class LoggerSettings(Settings):
    """Where metrics go beside ``metrics.jsonl``, as in ``configs/logger``: to Weights & Biases,
    in a ``project`` of it, and to TensorBoard."""

    node: ClassVar[str] = "logger"

    wandb: bool = False
    tensorboard: bool = False
    project: Name = "filmvqa"


@dataclass(frozen=True)
class TransferSettings(Settings):
    """Transfer learning, the node ``train`` of ``configs/train.yaml``.

    Attributes
    ----------
    init_from
        A checkpoint whose weights training begins with, word by word.
    new_words_std
        Of the embeddings of words that ``init_from`` does not have, as in ``warm_start``.
    trainable
        The parts of the model that are trained, such as ``film_generator``; None: all.
    frozen_batch_norm
        Whether batch norms of frozen parts keep their statistics (``eval``) or estimate them from
        each batch (``train``).
    """

    node: ClassVar[str] = "train"

    init_from: PathText | None = None
    new_words_std: NotNegative | None = None
    trainable: Annotated[list[Name], Meta(min_length=1)] | None = None
    frozen_batch_norm: FrozenBatchNorm = "eval"
