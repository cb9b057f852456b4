"""One training run in its folder: from data files to a checkpoint and its result."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
import yaml

from filmvqa.data.loader import EpochSampler, Loader, QuestionSet
from filmvqa.data.store import open_feature_store
from filmvqa.data.text import Vocabulary
from filmvqa.errors import UserError
from filmvqa.files import atomic_write
from filmvqa.models import build_model
from filmvqa.training.checkpoint import load_checkpoint
from filmvqa.training.loggers import build_loggers
from filmvqa.training.optim import build_optimizer, build_schedule
from filmvqa.training.trainer import RunState, Trainer, TrainerSettings


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
    ) -> Loader:
        """Questions and features of a split, checked against each other."""
        questions = QuestionSet.load(self.questions(split), vocabulary, device)
        features = open_feature_store(self.features(split), device, store)
        questions.check_features(features, self.features(split))
        return Loader(questions, features, batch_size)


def choose_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name}: {str(error).splitlines()[0]}") from None
    return device


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
    resume: bool = True,
) -> float:
    """Train in ``folder``, going on from its ``last.pt`` if there is one of the same config.

    Parameters
    ----------
    model
        ``name`` of a model and its options.
    optim
        ``name``, ``lr``, ``weight_decay``, ``schedule``, ``warmup``.
    config
        The whole configuration as plain data, kept in the folder and in every checkpoint.
    resume
        False refuses a folder that holds a checkpoint.

    Returns
    -------
    float
        The best validation accuracy; a run that had finished returns its own.

    Raises
    ------
    UserError
        If the folder holds a run of another config.
    """
    folder = Path(folder)
    saved = None
    if (folder / "last.pt").exists():
        saved = load_checkpoint(folder / "last.pt")
        if not resume:
            raise UserError(f"{folder}: holds a run already; resume=true goes on with it")
        if changed := _differences(saved["config"], config):
            raise UserError(
                f"{folder}: holds a run of another config ({'; '.join(changed)}); "
                "choose another run=<name>, or delete it"
            )
        if saved["progress"]["finished"]:
            print(f"{folder}: finished already, best validation accuracy "
                  f"{100 * saved['progress']['best_accuracy']:.2f}%")  # fmt: skip
            return float(saved["progress"]["best_accuracy"])
    vocabulary = Vocabulary.load(data.vocabulary)
    where = choose_device(device)
    loaders = [
        data.loader(split, vocabulary, trainer.batch_size, where, store)
        for split in (data.train_split, data.val_split)
    ]
    torch.manual_seed(seed)
    kwargs = {k: v for k, v in model.items() if k != "name"} | {
        "vocab_size": len(vocabulary.question),
        "num_answers": len(vocabulary.answer),
        "feature_dim": loaders[0].store.shape[0],
    }
    network = build_model(model["name"], **kwargs).to(where)
    sampler = EpochSampler(len(loaders[0].questions), trainer.batch_size, seed)
    optimizer = build_optimizer(network, optim["name"], optim["lr"], optim["weight_decay"])
    total = trainer.total_steps(sampler.batches_per_epoch)
    schedule = build_schedule(optimizer, optim["schedule"], optim["warmup"], total)
    state = RunState(network, optimizer, schedule, sampler)
    if saved is not None:
        state.load_state_dict(saved)
        print(f"{folder}: going on from step {state.step}")
    weights = sum(p.numel() for p in network.parameters())
    print(f"{model['name']}: {weights:,} weights on {where}; {loaders[0].store.where}")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "config.yaml") as stream:
        stream.write(yaml.safe_dump(config, sort_keys=False).encode())
    loggers = build_loggers(
        logger["name"], logger["project"], folder, folder.name, config, state.step
    )
    constant = {
        "model": {"name": model["name"], "kwargs": kwargs},
        "config": config,
        "vocabulary": vocabulary.to_dict(),
        "data": {name: str(value) for name, value in asdict(data).items()},
    }
    try:
        best = Trainer(
            state, trainer, loaders[0], loaders[1], folder, constant, loggers, seed
        ).fit()
    finally:
        for each in loggers:
            each.close()
    return best
