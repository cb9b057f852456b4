"""Short training runs on the tiny set, their checkpoints and records."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
from torch import nn

from filmvqa.checkpoints.checkpoint import load_checkpoint
from filmvqa.evaluation.batches import Batch, Loader, open_loader
from filmvqa.evaluation.evaluate import evaluate_checkpoint
from filmvqa.evaluation.settings import EvaluateSettings
from filmvqa.questions.settings import DataSettings
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import Interrupted, UserError
from filmvqa.tasks.protocol import Task
from filmvqa.training.run import train_run
from filmvqa.training.settings import OptimSettings, RunSettings, TrainerSettings, TransferSettings
from filmvqa.training.trainer import Trainer
from tests.conftest import data_in, set_in
from tests.models.small_models import SMALL

#: Options of models that are large enough to learn 64 questions by heart.
LARGER = {
    "film": {
        "channels": 24, "num_blocks": 2, "encoder": {"embedding_dim": 16, "hidden_dim": 48},
        "classifier": {"projection_dim": 32, "hidden_dims": [32]},
    },
    "mac": {"dim": 48, "num_steps": 3, "embedding_dim": 16},
    "cnn_lstm_sa": {"embedding_dim": 16, "hidden_dim": 48, "attention_dim": 32},
    "cnn_lstm": {"embedding_dim": 16, "hidden_dim": 48, "projection_dim": 16},
    "lstm": {"embedding_dim": 16, "hidden_dim": 48, "classifier_dims": [64]},
}  # fmt: skip
OPTIM = {"name": "adam", "lr": 3e-3, "weight_decay": 1e-5, "schedule": "cosine", "warmup_steps": 5}


def train(
    folder: Path,
    data: Path,
    name: str = "film",
    seed: int = 0,
    optim: dict | None = None,
    model: dict | None = None,
    splits: tuple[str, str] = ("train", "val"),
    run: dict | None = None,
    **trainer: Any,
) -> float:
    """Train a small model for 24 steps; ``run`` has options of ``RunSettings`` and its groups."""
    trainer = {
        "batch_size": 32, "max_steps": 24, "eval_every": 8, "log_every": 4, "patience": None,
        "train_sample": 50,
    } | trainer  # fmt: skip
    options = dict(run or {})
    data_options, transfer = (
        {name: options.pop(name) for name in options.keys() & {f.name for f in fields(node)}}
        for node in (DataSettings, TransferSettings)
    )
    run_settings = RunSettings(
        data=options.pop("data", None)
        or set_in(data, train_split=splits[0], val_split=splits[1], **data_options),
        model={"name": name, **SMALL[name], **(model or {})},
        optim=OptimSettings(**OPTIM | (optim or {})),
        trainer=TrainerSettings(**trainer),
        train=TransferSettings(**transfer),
        seed=seed,
        **{"device": "cpu", **options},
    )
    return train_run(folder, run_settings)


def loader_of(folder: Path, split: str = "train", batch_size: int = 64, **options: Any) -> Loader:
    """The questions and features of a set, on the CPU."""
    vocabulary, cpu = Vocabulary.load(folder / "vocab.json"), torch.device("cpu")
    return open_loader(data_in(folder), split, vocabulary, batch_size, cpu, **options)


def evaluate(checkpoint: Path, split: str = "val", **options: Any) -> tuple[Any, Any]:
    """Evaluate a checkpoint on the CPU: the files, and the report."""
    settings = EvaluateSettings(checkpoint=checkpoint, split=split, device="cpu", **options)
    return evaluate_checkpoint(settings)


def metrics(folder: Path) -> list[dict]:
    """The records of ``metrics.jsonl`` without times."""
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        for timed in ("seconds", "questions_per_second", "waited", "megabytes_read_per_second"):
            record.pop(timed, None)
    return records


def same(a: Any, b: Any) -> bool:
    """Whether two checkpoints are equal, except for times and the state of the working tree."""
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(
            same(a[k], b[k]) for k in a if k not in ("seconds", "clean")
        )
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)


def check_same(a: Path, b: Path) -> None:
    """Assert that two runs have the same checkpoints and records."""
    for name in ("last.pt", "best.pt"):
        assert same(load_checkpoint(a / name), load_checkpoint(b / name)), name
    assert metrics(a) == metrics(b)


def stop_in_steps(monkeypatch: pytest.MonkeyPatch, numbers: Sequence[int], stop: Any) -> None:
    """Call ``stop`` in the optimizer steps of these numbers, counted over all runs."""
    step = torch.optim.Adam.step
    calls = {"n": 0}

    def stops(self: torch.optim.Adam, *arguments: Any) -> Any:
        calls["n"] += 1
        if calls["n"] in numbers:
            stop()
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", stops)


def after_steps(monkeypatch: pytest.MonkeyPatch, work: Callable[[Trainer, Batch], Any]) -> None:
    """Call ``work`` after each training step."""
    step = Trainer.step

    def step_and_work(self: Trainer, batch: Batch) -> None:
        step(self, batch)
        work(self, batch)

    monkeypatch.setattr(Trainer, "step", step_and_work)


def record_batches(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """A list that gets the rows of each training batch."""
    batches: list[list[int]] = []
    after_steps(monkeypatch, lambda trainer, batch: batches.append(batch.index.tolist()))
    return batches


def check_interrupted(work: Callable[[Path], Any], folder: Path, numbers: Sequence[int]) -> Path:
    """Assert that a run ends as an uninterrupted one if it is interrupted and resumed.

    It is interrupted in the optimizer steps of these numbers. Returns the uninterrupted run's folder.
    """
    work(folder / "whole")
    with pytest.MonkeyPatch.context() as patched:
        stop_in_steps(patched, numbers, Mock(side_effect=KeyboardInterrupt))
        for _ in numbers:
            with pytest.raises(KeyboardInterrupt):
                work(folder / "parts")
        work(folder / "parts")
    check_same(folder / "whole", folder / "parts")
    return folder / "whole"


def learn_by_heart(task: Task, model: nn.Module, batch: Batch, enough: float) -> float:
    """Train on a batch for 300 steps, or until its mean score is ``enough``; return the score."""
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    for _ in range(300):
        output = model(batch.features, batch.questions, batch.image_of_question)
        score = task.scores(task.predictions(output), batch.targets).double().mean().item()
        if score >= enough:
            break
        optimizer.zero_grad()
        task.loss(output, batch.targets).backward()
        optimizer.step()
    return score


class Runs:
    """The runs of one test on one set, each with its folder."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder = folder
        self.data = data

    def train(
        self, run: str = "run", /, *name: str, data: Path | None = None, **options: Any
    ) -> float:
        """Call ``train``; ``data`` replaces the set."""
        return train(self.folder / run, data or self.data, *name, **options)

    def stop(self, step: int, run: str = "run", /, *name: str, **options: Any) -> None:
        """Train until a signal stops the run after a step, which saves it."""

        def stop(trainer: Trainer, batch: Batch) -> None:
            if trainer.state.step == step:
                trainer.stop.number = signal.SIGINT

        with pytest.MonkeyPatch.context() as patched, pytest.raises(Interrupted):
            after_steps(patched, stop)
            self.train(run, *name, **options)

    def refuse(self, message: str, run: str = "run", /, *name: str, **options: Any) -> None:
        """Assert that a run is refused before its first step."""
        with pytest.raises(UserError, match=message):
            self.train(run, *name, **options)
        assert not (self.folder / run / "metrics.jsonl").exists()

    def last(self, run: str = "run") -> dict[str, Any]:
        """The content of a run's ``last.pt``."""
        return load_checkpoint(self.folder / run / "last.pt")

    def best(self, run: str = "run") -> dict[str, Any]:
        return load_checkpoint(self.folder / run / "best.pt")

    def metrics(self, run: str = "run") -> list[dict]:
        return metrics(self.folder / run)

    def assert_same(self, a: str, b: str, *entries: str) -> None:
        """Assert that two runs have the same checkpoints and records, or the same entries of last.pt."""
        for entry in entries:
            assert same(self.last(a)[entry], self.last(b)[entry]), entry
        if not entries:
            check_same(self.folder / a, self.folder / b)

    def check_interrupted(self, *numbers: int, **options: Any) -> None:
        check_interrupted(lambda x: train(x, self.data, **options), self.folder, numbers)
