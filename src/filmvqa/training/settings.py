"""The settings of a training run, as in ``configs/train.yaml``."""

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
    Natural,
    NotNegative,
    PathText,
    Placement,
    Positive,
    Precision,
    ProgramSettings,
    Seed,
    Settings,
)


@dataclass(frozen=True)
class TrainerSettings(Settings):
    """The trainer's options, as in ``configs/trainer``.

    Attributes
    ----------
    max_steps
        Number of steps, if fewer than ``max_epochs`` has; None for those of ``max_epochs``.
    eval_every
        Steps between evaluations; None for one evaluation per epoch.
    log_every
        Steps between records of the training loss.
    patience
        Training ends after this many evaluations without a better validation score; None for
        never.
    grad_clip
        Largest norm of the gradient; None for no limit.
    grad_clip_by_part
        Whether to clip the gradients of encoder and FiLM generator separately from those of the
        other parts, as in the original code.
    questions_per_image
        If above 1, images are drawn, and this many questions of each are put into a batch, so that
        the parts of the network that do not depend on the question run once for them.
    shuffle
        Whether each epoch has another order of questions; otherwise it is the file's order.
    channels_last
        Memory order of features.
    compile
        Whether to compile all parts but the encoder with torch.compile.
    train_sample, val_sample
        Number of training questions scored at evaluations, to show overfitting, and of validation
        questions; None for all.
    ema_decay
        Decay of an exponential moving average of the weights, which is evaluated in place of the
        weights; None for no average.
    bce_weight, dice_weight
        Weights of binary cross-entropy and of 1 minus the Dice coefficient in the loss of masks.
    film_penalty
        Weight of the model's penalty on the deviations of γ and β.
    program_loss
        Weight of the supervision by programs (``training.added_losses.program_loss``).
    sync_batch_norm
        Whether batch norm uses the statistics of the whole batch; otherwise each process uses those
        of its part, which for two processes is batch norm with half the batch size.
    keep_best
        Number of best checkpoints to keep: ``best.pt``, and if more than 1 also one file per step.
    checkpoint_minutes, checkpoint_steps
        How often ``last.pt`` is written between evaluations; None for never.
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
        """Number of steps of a run that does not end early."""
        steps = self.max_epochs * batches_per_epoch
        return steps if self.max_steps is None else min(steps, self.max_steps)


@dataclass(frozen=True)
class OptimSettings(Settings):
    """The optimizer and its learning-rate schedule, as in ``configs/optim``.

    ``adam`` adds weight decay to the gradient, as the paper does (section 4.1); ``adamw`` decouples
    it from the gradient (Loshchilov and Hutter 2019).

    Attributes
    ----------
    part_weight_decay
        Weight decay by module name, such as ``film_generator``; None for ``weight_decay``.
    decay_norms_and_biases
        Whether weight decay applies to parameters of one dimension: biases, and the scales of
        normalization layers.
    fused
        Whether the optimizer updates the parameters in one pass per step instead of several.
    schedule
        ``constant`` as in the paper, or ``cosine``, which decays to zero at the last step.
    warmup_steps
        Length of the linear warm-up with which both schedules start.
    """

    node: ClassVar[str] = "optim"

    name: Literal["adam", "adamw"] = "adam"
    lr: AboveZero = 3e-4
    weight_decay: NotNegative = 1e-5
    part_weight_decay: dict[str, NotNegative | None] = field(default_factory=dict)
    decay_norms_and_biases: bool = True
    fused: bool = True
    schedule: Literal["constant", "cosine"] = "constant"
    warmup_steps: Natural = 0


@dataclass(frozen=True)
class LoggerSettings(Settings):
    """Loggers beside ``metrics.jsonl``, as in ``configs/logger``: Weights & Biases, with its
    ``project``, and TensorBoard."""

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
        A checkpoint from whose weights training starts; embeddings are matched by word.
    new_words_std
        Standard deviation of the embeddings of new words, as in ``warm_start``.
    trainable
        The parts of the model that are trained, such as ``film_generator``; None for all.
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
    """The settings of a training run.

    Attributes
    ----------
    model
        ``name`` of a model, and its options.
    name, run
        The run's folder is ``outputs/<name>/<run>``.
    ablation
        A label for reports: what the experiment leaves out or replaces.
    seed
        Seed of the initial weights, the order of questions, dropout, and the choice of images.
    device
        As in ``choose_device``.
    store
        Where features are stored, as in ``open_feature_store``.
    accelerate
        ``auto`` replaces modules of the network by faster ones that compute the same; false uses
        only the code of ``models``.
    resume
        Resume the run in the folder; False refuses a folder that holds a run.

    Raises
    ------
    UserError
        For a value out of range.
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
        """The configuration as plain data.

        It is stored in the run's folder and in each checkpoint, and compared when the run is
        resumed. It has the indices of question families, not the name of their file, so that a
        resumed run has the same families.
        """
        settings_type = type(self)
        config = {
            key: value
            for key, value in self.plain().items()
            if Effect.UNRECORDED not in notes_of(settings_type, key)
        }
        if not self.imports:  # earlier versions lacked this key
            config.pop("imports", None)
        config["data"]["families"] = self.data.chosen_families
        return config
