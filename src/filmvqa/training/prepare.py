"""Preparation of a run before its first step: data, model and state."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from filmvqa.evaluation.batches import Loader, open_loader
from filmvqa.evaluation.provenance import record_inputs
from filmvqa.features.feature_file import FEATURE_SPEC, FRONT_END
from filmvqa.features.feature_range import feature_range
from filmvqa.models import build_model, targets_of
from filmvqa.models.fast.accelerate import accelerate
from filmvqa.models.protocols import Counted
from filmvqa.questions.dataset import ImageSubset
from filmvqa.questions.sampler import EpochSampler
from filmvqa.questions.settings import CurriculumStage, DataSettings
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system import processes
from filmvqa.system.determinism import enable_determinism, seed_process
from filmvqa.system.devices import choose_device
from filmvqa.system.errors import UserError, warn
from filmvqa.system.files import refuse_overwriting
from filmvqa.system.layout import RunLayout
from filmvqa.system.memory import explained_out_of_memory
from filmvqa.training.settings import RunSettings
from filmvqa.training.smallest_batch import check_images_per_batch, norms_of_one_value
from filmvqa.training.state import RunState, build_state
from filmvqa.training.transfer import freeze_except, training_mode, warm_start


@dataclass
class PreparedRun:
    """A run that is ready to be restored, recorded and trained.

    ``subset`` are the training images, ``val_rows`` (M,) the validation questions, and ``metadata``
    the entries of the run's checkpoints beside the state.
    """

    layout: RunLayout
    settings: RunSettings
    device: torch.device
    train: Loader
    val: Loader
    subset: ImageSubset
    val_rows: Tensor
    state: RunState
    metadata: dict[str, Any]

    def close(self) -> None:
        """Close the data files."""
        self.train.close()
        self.val.close()


def prepare_run(
    layout: RunLayout, settings: RunSettings, *, saved: dict[str, Any] | None = None
) -> PreparedRun:
    """Open the data, and build the model and the state; write nothing.

    Parameters
    ----------
    saved
        The content of the run's last checkpoint, from which the run is resumed: ``init_from`` is
        then not read, and the range of the features is the checkpoint's. None for a new run.

    Raises
    ------
    UserError
        If a file or an option does not fit.
    """
    data, transfer = settings.data, settings.train
    if transfer.init_from is not None:
        refuse_overwriting(layout.best_checkpoint, transfer.init_from)
        refuse_overwriting(layout.last_checkpoint, transfer.init_from)
    if data.train_split == data.val_split and data.fraction == 1:
        raise UserError(
            f"data.train_split and data.val_split are both {data.train_split!r}: give a "
            "data.fraction below 1, so that images are left for validation"
        )
    vocabulary = Vocabulary.load(data.layout.vocabulary)
    device = choose_device(settings.device)
    enable_determinism(device)
    with (
        ExitStack() as opened,
        explained_out_of_memory(lambda: out_of_memory_message(layout, settings.store, device)),
    ):
        loaders = []
        for split in (data.train_split, data.val_split):
            loader = open_loader(
                data.layout, split, vocabulary, settings.trainer.batch_size, device,
                settings.store, channels_last=settings.trainer.channels_last,
                families=data.chosen_families, missing_images=data.missing_images,
                targets=targets_of(settings.model["name"]),
                programs=settings.trainer.program_loss > 0 and split == data.train_split,
            )  # fmt: skip
            opened.callback(loader.close)
            loaders.append(loader)
        _check_splits(data, *loaders)
        run = _build_run(layout, settings, vocabulary, device, *loaders, saved=saved)
        opened.pop_all()  # the run closes the loaders
        return run


def _build_run(
    layout: RunLayout,
    settings: RunSettings,
    vocabulary: Vocabulary,
    device: torch.device,
    train: Loader,
    val: Loader,
    *,
    saved: dict[str, Any] | None,
) -> PreparedRun:
    """Build the model and the state for opened data."""
    data, files, transfer = settings.data, settings.data.layout, settings.train
    subset = train.questions.image_subset(data.fraction, settings.seed)
    same_split = data.train_split == data.val_split
    val_rows = subset.other_rows if same_split else torch.arange(len(val.questions))
    if not len(val_rows):
        raise UserError(
            f"data.fraction={data.fraction} takes all images of {data.train_split}, and "
            "leaves none for validation; lower it"
        )
    torch.manual_seed(settings.seed)
    model_kwargs = {k: v for k, v in settings.model.items() if k != "name"} | {
        "vocab_size": len(vocabulary.question),
        **train.targets.output_options(vocabulary),
        "feature_shape": list(train.store.shape),
    }
    model = build_model(settings.model["name"], **model_kwargs).to(device)
    _fit_counts(model, train, subset)
    if transfer.init_from is not None and saved is None:
        shared_words, new_words = warm_start(
            model, settings.model["name"], transfer.init_from, vocabulary,
            new_words_std=transfer.new_words_std, feature_spec=train.store.feature_spec,
            new_parts=transfer.trainable or (),
        )  # fmt: skip
        print(f"starting from {transfer.init_from}: {shared_words} words known, {new_words} new")
    freeze_except(model, transfer.trainable)
    if settings.accelerate:
        acceleration = accelerate(model)
        if processes.is_first():
            print(acceleration)
    sampler = _build_sampler(settings, model, train, subset)
    metadata: dict[str, Any] = {
        "model": {"name": settings.model["name"], "kwargs": model_kwargs},
        "config": settings.config,
        "vocabulary": vocabulary.to_dict(),
        "data": {
            "h5": str(files.h5),
            "features": str(files.features),
            "backbone": files.backbone,
            "train_split": data.train_split,
            "val_split": data.val_split,
        },
        "backbone": train.store.feature_spec,
        "inputs": record_inputs(vocabulary, {data.train_split: train, data.val_split: val}),
        # Measuring it reads many images; earlier versions did not save it.
        "feature_range": (saved or {}).get("feature_range")
        or asdict(feature_range(train.store, subset.images)),
        # None if all; otherwise evaluations of this split leave these images out.
        "train_images": None if data.fraction == 1 else subset.images,
    }
    seed_process()
    state = build_state(model, settings.optim, settings.trainer, sampler)
    return PreparedRun(layout, settings, device, train, val, subset, val_rows, state, metadata)


def _fit_counts(model: nn.Module, train: Loader, subset: ImageSubset) -> None:
    """Fit a model that counts training questions, such as the question-type baseline.

    Such a model is not trained by gradient; other models are left unchanged.
    """
    if not isinstance(model, Counted):
        return
    questions = train.questions
    if questions.types is None or questions.answers is None:
        raise UserError(f"{questions.path}: has no answers with question types to count")
    rows = subset.rows[questions.types[subset.rows] >= 0]
    model.fit(*(column[rows].long() for column in
          (questions.questions, questions.answers, questions.types)))  # fmt: skip


def _build_sampler(
    settings: RunSettings, model: nn.Module, train: Loader, subset: ImageSubset
) -> EpochSampler:
    """Build the sampler of training batches, on which the model's batch norms can be trained."""
    trainer = settings.trainer
    training_mode(model, settings.train.frozen_batch_norm)
    norms = norms_of_one_value(model, train, subset.rows[:1], 1)
    if norms and trainer.batch_size == 1:
        raise UserError(
            f"trainer.batch_size=1: the batch norm {norms[0]} cannot be trained on one question at "
            "a time; raise it, or choose a model without batch norm"
        )
    if norms and len(subset.rows) == 1:
        raise UserError(
            f"{train.questions.path}: trains on one question, on which the batch norm {norms[0]} "
            "cannot be trained; give more questions, or choose a model without batch norm"
        )
    sampler = EpochSampler(
        subset.rows, trainer.batch_size, settings.seed, train.questions.images[subset.rows],
        trainer.questions_per_image, 2 if norms else 1,
        stages=_stages(settings.data.curriculum or (), train, subset.rows), shuffle=trainer.shuffle,
    )  # fmt: skip
    if norms:
        training_mode(model, settings.train.frozen_batch_norm)
        # Norms that also get a single value from two questions do not depend on the question.
        if norms := norms_of_one_value(model, train, subset.rows[:1], 2):
            total_steps = trainer.total_steps(sampler.batches_per_epoch)
            check_images_per_batch(sampler, total_steps, norms[0])
    return sampler


def _stages(
    curriculum: Sequence[CurriculumStage], train: Loader, rows: Tensor
) -> list[tuple[int, Tensor]]:
    """The curriculum's stages for ``EpochSampler``, given the training questions ``rows``."""
    questions, stages = train.questions, []
    for stage in curriculum:
        is_member = torch.ones(len(rows), dtype=torch.bool)
        if stage.program_length is not None:
            if questions.program_lengths is None:
                raise UserError(f"{questions.path}: has no programs for data.curriculum to use")
            is_member &= questions.program_lengths[rows] <= stage.program_length
        if stage.families is not None:
            if questions.families is None:
                raise UserError(f"{questions.path}: has no families for data.curriculum to use")
            is_member &= torch.isin(questions.families[rows], torch.tensor(stage.families))
        if not is_member.any():
            raise UserError(
                f"data.curriculum: the stage of {stage.questions} questions has none of those in "
                f"{questions.path}; give it a larger program_length, or other families"
            )
        stages.append((stage.questions, is_member.nonzero().flatten()))
    return stages


def _check_splits(data: DataSettings, train: Loader, val: Loader) -> None:
    """Raise ``UserError`` if training or its first evaluation would fail on the data."""
    for loader, name, purpose in ((train, "train", "to train on"), (val, "val", "to compare with")):
        if not loader.has_targets:
            raise UserError(
                f"{loader.questions.path}: has no {loader.targets.noun} {purpose}; choose another "
                f"data.{name}_split"
            )
    train_path, val_path = (
        data.layout.feature_h5(split) for split in (data.train_split, data.val_split)
    )
    if train.store.shape != val.store.shape:
        raise UserError(
            f"{val_path}: features of shape {val.store.shape}, those of {train_path} are "
            f"{train.store.shape}; extract both splits with the same data.backbone"
        )
    spec, val_spec = train.store.feature_spec, val.store.feature_spec
    if spec is None or val_spec is None:
        return
    changed = [name for name in (*FEATURE_SPEC, FRONT_END) if spec.get(name) != val_spec.get(name)
               and name != "weights"]  # the name of a file, which may be renamed  # fmt: skip
    message = f"{val_path}: differs from {train_path} in {', '.join(changed)}"
    if changed == ["precision"]:
        warn(message)
    elif changed:
        raise UserError(f"{message}; extract both splits with the same data.backbone")


def out_of_memory_message(layout: RunLayout, store: str, device: torch.device) -> str:
    """The message if memory runs out before the first step."""
    begin = f"{layout.folder}: out of memory on {device} before the first step: "
    smaller = "a smaller model in a new run"
    if store == "stream":
        return f"{begin}the model does not fit; choose {smaller}"
    return f"{begin}the features or the model do not fit; choose store=stream, or {smaller}"
