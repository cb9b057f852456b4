"""One training run in its folder: from data files to a checkpoint and its result."""

from __future__ import annotations

import copy
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import nn

from filmvqa.checkpoint import load_checkpoint, remedy
from filmvqa.data.loader import EpochSampler, Loader, Part, QuestionSet
from filmvqa.data.store import open_feature_store
from filmvqa.data.vocabulary import Vocabulary
from filmvqa.determinism import enable_determinism
from filmvqa.devices import choose_device
from filmvqa.disk import check_disk_space
from filmvqa.errors import UserError, one_line, warn
from filmvqa.files import refuse_overwriting, write_file
from filmvqa.locks import folder_lock
from filmvqa.memory import bound_kernel_caches, explained_out_of_memory, keep_freed_memory
from filmvqa.models import build_model
from filmvqa.models.baselines import QuestionTypeMode
from filmvqa.models.encoder import QuestionEncoder
from filmvqa.training.loggers import build_loggers
from filmvqa.training.optim import build_optimizer, build_schedule
from filmvqa.training.provenance import changed_inputs, environment, inputs
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
    bound_kernel_caches()
    if start is not None:
        refuse_overwriting(folder / "best.pt", start)
        refuse_overwriting(folder / "last.pt", start)
    with folder_lock(folder):
        saved = _earlier_run(folder, config, resume)
        if saved is not None and saved["progress"]["finished"]:
            return _finished_already(folder, saved)
        vocabulary = Vocabulary.load(data.vocabulary)
        where = choose_device(device)
        enable_determinism(where)
        with explained_out_of_memory(lambda: _no_memory(folder, where)):
            train, val = (
                data.loader(
                    split, vocabulary, trainer.batch_size, where, store,
                    channels_last=trainer.channels_last,
                )
                for split in (data.train_split, data.val_split)
            )  # fmt: skip
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
        with explained_out_of_memory(lambda: _no_memory(folder, where)):
            network = build_model(model["name"], **kwargs).to(where)
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
        state = build_state(network, optim, trainer, sampler)
        constant: dict[str, Any] = {
            "model": {"name": model["name"], "kwargs": kwargs},
            "config": config,
            "vocabulary": vocabulary.to_dict(),
            "data": {name: str(value) for name, value in asdict(data).items()},
            "inputs": inputs(vocabulary, {data.train_split: train, data.val_split: val}),
            # None: all; else evaluations of that split leave these images out.
            "train_images": None if fraction == 1 else part.images,
        }
        if saved is not None:
            _go_on(folder, state, saved, constant["inputs"])
        _require_room(folder, state)
        _note_environment(folder, state, where)
        weights, trained = count_weights(network)
        print(f"{model['name']}: {weights:,} weights, {trained:,} of them trained, on {where}; "
              f"{len(part.rows):,} questions about {len(part.images):,} images; "
              f"{train.store.where}")  # fmt: skip
        write_file(folder / "config.yaml", yaml.safe_dump(config, sort_keys=False))
        record = {"environments": state.environments, "inputs": constant["inputs"]}
        write_file(folder / "provenance.json", json.dumps(record, indent=1) + "\n")
        if fraction < 1:
            head = {"split": data.train_split, "fraction": fraction, "seed": seed}
            chosen = {**head, "images": part.images.tolist()}
            write_file(folder / "train_images.json", json.dumps(chosen) + "\n")
        loggers = build_loggers(
            logger["name"], logger["project"], folder, folder.name, config, state.records
        )
        val_rows = part.others if same_split else torch.arange(len(val.questions))
        try:
            best = Trainer(
                state, trainer, train, val, folder, constant, loggers, val_rows, seed
            ).fit()
        finally:
            for each in loggers:
                each.close()
        return best


def _finished_already(folder: Path, saved: dict[str, Any]) -> float:
    best = float(saved["progress"]["best_accuracy"])
    print(f"{folder}: finished already, best validation accuracy {100 * best:.2f}%")
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


def _go_on(folder: Path, state: RunState, saved: dict[str, Any], found: dict[str, Any]) -> None:
    """Bring a state to where a checkpoint was written."""
    if changed := changed_inputs(saved["inputs"], found):
        raise UserError(
            f"{folder}: {' and '.join(changed)} changed since the run began; bring the data back, "
            "or choose another run=<name>"
        )
    try:
        state.load_state_dict(saved)
    except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{folder / 'last.pt'}: training cannot go on with it ({one_line(error)}); "
            f"{remedy(folder / 'last.pt')}"
        ) from None
    print(f"{folder}: going on from step {state.step}")


def _note_environment(folder: Path, state: RunState, device: torch.device) -> None:
    """Record what the run runs in, if that is not what it ran in before."""
    now = environment(device)
    before = {k: v for k, v in state.environments[-1].items() if k != "from_step"} if (
        state.environments
    ) else None  # fmt: skip
    if now == before:
        return
    if before is not None:
        changed = "; ".join(_differences(before, now))
        warn(f"{folder}: goes on where bits may differ ({changed})")
    state.environments.append({"from_step": state.step, **now})


def _require_room(folder: Path, state: RunState) -> None:
    """Raise ``UserError`` unless the checkpoints have room: the best, the last, and one that is
    being written."""
    there = sum(p.stat().st_size for p in folder.glob("*.pt"))
    check_disk_space(folder, max(0, 3 * state.num_bytes - there))


def _no_memory(folder: Path, device: torch.device) -> str:
    return (
        f"{folder}: out of memory on {device} before the first step: the features or the model "
        "have no room; choose store=stream, or a smaller model"
    )


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
    device = next(chain(network.parameters(), network.buffers())).device
    losses = torch.zeros(trainer.log_every, device=device)
    right = torch.zeros(trainer.log_every, dtype=torch.int64, device=device)
    return RunState(network, optimizer, schedule, sampler, losses, right, average)


def compile_parts(network: nn.Module, backend: str = "inductor") -> None:
    """Let torch.compile make each part of a network but the encoder, whose loops differ from batch
    to batch; names of weights stay as they are."""
    for part in network.children():
        if not isinstance(part, QuestionEncoder):
            for module in part if isinstance(part, nn.ModuleList) else [part]:
                module.compile(dynamic=True, backend=backend)


def _count_types(network: QuestionTypeMode, questions: QuestionSet, part: Part) -> None:
    if questions.types is None or questions.answers is None:
        raise UserError(f"{questions.path}: has no answers with question types to count")
    rows = part.rows[questions.types[part.rows] >= 0]
    network.fit(*(t[rows].long() for t in
                  (questions.questions, questions.answers, questions.types)))  # fmt: skip
