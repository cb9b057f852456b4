"""One training run in its folder: from data files to a checkpoint and its result."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from filmvqa.data.loader import EpochSampler, Loader, Part, QuestionSet
from filmvqa.data.store import open_feature_store
from filmvqa.data.text import Vocabulary
from filmvqa.device import choose_device, keep_freed_memory
from filmvqa.errors import UserError
from filmvqa.evaluation.curves import draw_curves
from filmvqa.files import atomic_write
from filmvqa.models import build_model
from filmvqa.models.baselines import QuestionTypeMode
from filmvqa.models.encoder import QuestionEncoder
from filmvqa.training.checkpoint import load_checkpoint
from filmvqa.training.loggers import build_loggers
from filmvqa.training.optim import build_optimizer, build_schedule
from filmvqa.training.trainer import RunState, Trainer, TrainerSettings
from filmvqa.training.transfer import count_weights, start_from, train_only


@dataclass(frozen=True)
class DataFiles:
    """Where a preprocessed set lies: ``<folder>/vocab.json`` and question HDF5 by split, feature
    HDF5 in ``features_folder`` (which several question sets may share)."""

    folder: Path
    features_folder: Path
    backbone: str
    train_split: str = "train"
    val_split: str = "val"

    @property
    def vocabulary(self) -> Path:
        return self.folder / "vocab.json"

    def questions(self, split: str) -> Path:
        return self.folder / f"{split}_questions.h5"

    def features(self, split: str) -> Path:
        return self.features_folder / f"{split}_features_{self.backbone}.h5"

    def loader(
        self,
        split: str,
        vocabulary: Vocabulary,
        batch_size: int,
        device: torch.device,
        store: str = "auto",
        *,
        channels_last: bool = True,
    ) -> Loader:
        """Questions and features of a split, checked against each other."""
        questions = QuestionSet.load(self.questions(split), vocabulary)
        features = open_feature_store(self.features(split), device, store)
        questions.check_features(features, self.features(split))
        return Loader(questions, features, batch_size, channels_last=channels_last)


def flatten(config: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested keys joined with dots."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        nested = flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else None
        flat.update(nested if nested is not None else {f"{prefix}{key}": value})
    return flat


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    a, b = flatten(old), flatten(new)
    return [f"{k} was {a.get(k)}, now {b.get(k)}" for k in sorted(a | b) if a.get(k) != b.get(k)]


def train_run(
    folder: str | Path,
    *,
    data: DataFiles,
    model: dict[str, Any],
    optim: dict[str, Any],
    trainer: TrainerSettings,
    logger: dict[str, Any],
    config: dict[str, Any],
    seed: int = 0,
    device: str = "auto",
    store: str = "auto",
    fraction: float = 1.0,
    start: str | Path | None = None,
    parts: Sequence[str] | None = None,
    resume: bool = True,
) -> float:
    """Train in ``folder``, going on from its ``last.pt`` if there is one of the same config.

    Parameters
    ----------
    model
        ``name`` of a model and its options.
    optim
        ``name``, ``lr``, ``weight_decay``, ``part_weight_decay``, ``decay_norms_and_biases``,
        ``fused``, ``schedule``, ``warmup``.
    config
        The whole configuration as plain data, kept in the folder and in every checkpoint.
    fraction
        Train on that part of the training images, chosen by ``seed``, with all their questions.
        Where training and validation split are one, the other images validate.
    start
        A checkpoint whose weights training begins from, word by word.
    parts
        Train these parts of the model alone, such as ``film_generator``; None: all.
    resume
        False refuses a folder that holds a checkpoint.

    Returns
    -------
    float
        The best validation accuracy; a run that had finished returns its own.

    Raises
    ------
    UserError
        If the folder holds a run of another config, or anything named does not fit.
    """
    folder = Path(folder)
    keep_freed_memory()
    saved = _earlier_run(folder, config, resume)
    if saved is not None and saved["progress"]["finished"]:
        best = float(saved["progress"]["best_accuracy"])
        print(f"{folder}: finished already, best validation accuracy {100 * best:.2f}%")
        return best
    vocabulary = Vocabulary.load(data.vocabulary)
    where = choose_device(device)
    train, val = (
        data.loader(
            split, vocabulary, trainer.batch_size, where, store, channels_last=trainer.channels_last
        )
        for split in (data.train_split, data.val_split)
    )
    part = train.questions.part(fraction, seed)
    if (same_split := data.train_split == data.val_split) and fraction == 1:
        raise UserError(
            f"data.train_split and data.val_split are both {data.train_split!r}: give a "
            "data.fraction below 1, so that images are left to validate on"
        )
    torch.manual_seed(seed)
    kwargs = {k: v for k, v in model.items() if k != "name"} | {
        "vocab_size": len(vocabulary.question),
        "num_answers": len(vocabulary.answer),
        "feature_shape": list(train.store.shape),
    }
    network = build_model(model["name"], **kwargs)
    if isinstance(network, QuestionTypeMode):
        _count_types(network, train.questions, part)
    if start is not None and saved is None:
        kept, new = start_from(network, model["name"], start, vocabulary)
        print(f"begins from {start}: {kept} words kept, {new} new")
    train_only(network, parts)
    sampler = EpochSampler(
        part.rows, trainer.batch_size, seed,
        train.questions.images[part.rows], trainer.questions_per_image,
    )  # fmt: skip
    state = build_state(network.to(where), optim, trainer, sampler)
    if saved is not None:
        state.load_state_dict(saved)
        print(f"{folder}: going on from step {state.step}")
    weights, trained = count_weights(network)
    print(f"{model['name']}: {weights:,} weights, {trained:,} of them trained, on {where}; "
          f"{len(part.rows):,} questions about {len(part.images):,} images; "
          f"{train.store.where}")  # fmt: skip
    folder.mkdir(parents=True, exist_ok=True)
    _write_text(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
    if fraction < 1:
        record = {"split": data.train_split, "fraction": fraction, "seed": seed}
        chosen = {**record, "images": part.images.tolist()}
        _write_text(folder / "train_images.json", json.dumps(chosen) + "\n")
    loggers = build_loggers(
        logger["name"], logger["project"], folder, folder.name, config, state.step
    )
    constant = {
        "model": {"name": model["name"], "kwargs": kwargs},
        "config": config,
        "vocabulary": vocabulary.to_dict(),
        "data": {name: str(value) for name, value in asdict(data).items()},
        # None: all; else evaluations of that split leave these images out.
        "train_images": None if fraction == 1 else part.images,
    }
    val_rows = part.others if same_split else torch.arange(len(val.questions))
    try:
        best = Trainer(state, trainer, train, val, folder, constant, loggers, val_rows, seed).fit()
    finally:
        for each in loggers:
            each.close()
    draw_curves(folder / "metrics.jsonl", folder / "curves.png")
    return best


def _earlier_run(folder: Path, config: dict[str, Any], resume: bool) -> dict[str, Any] | None:
    """The folder's last checkpoint, if there is one, which must be of this config."""
    if not (folder / "last.pt").exists():
        return None
    saved = load_checkpoint(folder / "last.pt")
    if not resume:
        raise UserError(f"{folder}: holds a run already; resume=true goes on with it")
    if changed := _differences(saved["config"], config):
        raise UserError(
            f"{folder}: holds a run of another config ({'; '.join(changed)}); "
            "choose another run=<name>, or delete it"
        )
    return saved


def build_state(
    network: nn.Module, optim: dict[str, Any], trainer: TrainerSettings, sampler: EpochSampler
) -> RunState:
    """What changes while training, at its beginning; the network is compiled if it is to be."""
    own = {k: v for k, v in optim.items() if k not in ("schedule", "warmup")}
    optimizer = build_optimizer(network, **own)
    total = trainer.total_steps(sampler.batches_per_epoch)
    schedule = build_schedule(optimizer, optim["schedule"], optim["warmup"], total)
    average = None if trainer.average is None else copy.deepcopy(network)
    if trainer.compile:
        compile_parts(network)
    return RunState(network, optimizer, schedule, sampler, average)


def compile_parts(network: nn.Module, backend: str = "inductor") -> None:
    """Let torch.compile make each part of a network but the encoder, whose loops differ from batch
    to batch; names of weights stay as they are."""
    for part in network.children():
        if not isinstance(part, QuestionEncoder):
            for module in part if isinstance(part, nn.ModuleList) else [part]:
                module.compile(dynamic=True, backend=backend)


def _write_text(path: Path, text: str) -> None:
    with atomic_write(path) as stream:
        stream.write(text.encode())


def _count_types(network: QuestionTypeMode, questions: QuestionSet, part: Part) -> None:
    if questions.types is None or questions.answers is None:
        raise UserError(f"{questions.path}: has no answers with question types to count")
    rows = part.rows[questions.types[part.rows] >= 0]
    network.fit(*(t[rows].long() for t in
                  (questions.questions, questions.answers, questions.types)))  # fmt: skip
