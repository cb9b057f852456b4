"""What a run trains, on what and how: the settings of ``configs/train.yaml``."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

from msgspec import Meta

from filmvqa.checkpoints.places import CHECKPOINT
from filmvqa.questions.settings import DataSettings
from filmvqa.settings.annotations import notes_of
from filmvqa.settings.effects import Effect
from filmvqa.settings.inputs import Input
from filmvqa.settings.typed import (
    AboveZero,
    Accelerate,
    Device,
    FrozenBatchNorm,
    Label,
    ModelOptions,
    Name,
    NotNegative,
    PathText,
    Placement,
    Positive,
    Precision,
    ProgramSettings,
    Seed,
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
    program_loss
        Weight in the loss of how far the model's reads are from the objects that programs name, and
        its sets from those that are counted: supervision by programs.
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
    max_epochs: Annotated[Positive, Effect.LENGTH] = 80
    max_steps: Annotated[Positive | None, Effect.LENGTH] = None
    eval_every: Positive | None = None
    log_every: Annotated[Positive, Effect.NONE] = 50
    patience: Annotated[Positive | None, Effect.LENGTH] = 5
    grad_clip: AboveZero | None = None
    grad_clip_by_part: bool = False
    precision: Precision = "auto"
    questions_per_image: Positive = 1
    shuffle: bool = True
    channels_last: Annotated[bool, Effect.ROUNDING] = True
    compile: Annotated[bool, Effect.ROUNDING] = False
    sync_batch_norm: bool = True
    train_sample: Positive | None = 2000
    val_sample: Positive | None = None
    ema_decay: Annotated[float, Meta(gt=0.0, lt=1.0)] | None = None
    bce_weight: NotNegative = 1.0
    dice_weight: NotNegative = 1.0
    film_penalty: NotNegative = 0.0
    program_loss: NotNegative = 0.0
    keep_best: Annotated[Positive, Effect.NONE] = 1
    checkpoint_minutes: Annotated[AboveZero | None, Effect.NONE] = 10.0
    checkpoint_steps: Annotated[Positive | None, Effect.NONE] = None

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

    init_from: Annotated[PathText | None, CHECKPOINT] = None
    new_words_std: NotNegative | None = None
    trainable: Annotated[list[Name], Meta(min_length=1)] | None = None
    frozen_batch_norm: FrozenBatchNorm = "eval"


@dataclass(frozen=True, kw_only=True)
class RunSettings(ProgramSettings):
    """What a run trains, on what and how.

    Attributes
    ----------
    model
        ``name`` of a model, and its options.
    name, run
        The folder of the run is ``run`` below ``outputs/<name>``.
    ablation
        A label for reports: what the run's experiment leaves out or replaces.
    seed
        Of the initial weights, the questions' order, dropout, and the images that are chosen.
    device
        As ``choose_device`` takes it.
    store
        Where features live, as ``open_feature_store`` takes it.
    accelerate
        Whether modules of the network are replaced by faster forms of the same (``auto``), or it
        computes by the code of ``models`` alone (false).
    resume
        Go on with the run that the folder holds; False refuses such a folder.

    Raises
    ------
    UserError
        For a value that is out of its range.
    """

    data: Annotated[DataSettings, Input(lambda data, _: data.check_trained_on())]
    model: ModelOptions
    optim: OptimSettings
    trainer: TrainerSettings
    logger: Annotated[LoggerSettings, Effect.NONE] = field(default_factory=LoggerSettings)
    train: TransferSettings = field(default_factory=TransferSettings)
    name: Annotated[Label, Effect.NONE] = "train"
    ablation: Annotated[Label | None, Effect.NONE] = None
    run: Annotated[Label, Effect.UNRECORDED] = "run"
    seed: Seed = 0
    device: Annotated[Device, Effect.NONE] = "auto"
    store: Annotated[Placement, Effect.NONE] = "auto"
    accelerate: Annotated[Accelerate, Effect.ROUNDING] = "auto"
    resume: Annotated[bool, Effect.UNRECORDED] = True

    def check_models(self) -> None:
        from filmvqa.models import check_model

        check_model(self.model)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration as plain data: kept in the run's folder and in every checkpoint, and
        compared when a run is resumed. It has the numbers of families, not the name of their file:
        a run goes on with the same ones alone."""
        plain, own = self.plain(), type(self)
        config = {k: v for k, v in plain.items() if Effect.UNRECORDED not in notes_of(own, k)}
        if not self.imports:  # which earlier versions did not have
            config.pop("imports", None)
        config["data"]["families"] = self.data.chosen_families
        return config
