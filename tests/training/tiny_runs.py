"""Short training runs on the tiny set, and what they wrote."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from filmvqa.checkpoints.checkpoint import load_checkpoint
from filmvqa.evaluation.batches import Batch
from filmvqa.questions.settings import DataSettings
from filmvqa.system.errors import Interrupted, UserError
from filmvqa.tasks.protocol import Task
from filmvqa.training.run import train_run
from filmvqa.training.settings import (
    OptimSettings,
    RunSettings,
    TrainerSettings,
    TransferSettings,
)
from filmvqa.training.trainer import Trainer
from tests.conftest import set_in
from tests.models.small_models import SMALL

#: Models large enough to learn 64 questions by heart.
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
    **changes: Any,
) -> float:
    settings = {
        "batch_size": 32, "max_steps": 24, "eval_every": 8, "log_every": 4, "patience": None,
        "train_sample": 50,
    } | changes  # fmt: skip
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
        trainer=TrainerSettings(**settings),
        train=TransferSettings(**transfer),
        seed=seed,
        **{"device": "cpu", **options},
    )
    return train_run(folder, run_settings)


def metrics(folder: Path) -> list[dict]:
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for record in records:
        for timed in ("seconds", "questions_per_second", "waited", "megabytes_read_per_second"):
            record.pop(timed, None)
    return records


def same(a: Any, b: Any) -> bool:
    """Whether two checkpoints agree, but for times, and for whether another test has just put a
    file into the checkout."""
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
    """Two runs have the same checkpoints and records."""
    for name in ("last.pt", "best.pt"):
        assert same(load_checkpoint(a / name), load_checkpoint(b / name)), name
    assert metrics(a) == metrics(b)


def stop_in_steps(monkeypatch: pytest.MonkeyPatch, numbers: Sequence[int], stop: Any) -> None:
    """Call ``stop`` in these of the optimizer's steps, counted over all runs."""
    step = torch.optim.Adam.step
    calls = {"n": 0}

    def stops(self: torch.optim.Adam, *arguments: Any) -> Any:
        calls["n"] += 1
        if calls["n"] in numbers:
            stop()
        return step(self, *arguments)

    monkeypatch.setattr(torch.optim.Adam, "step", stops)


def note_batches(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The rows of each training batch from here on, as they come."""
    batches: list[list[int]] = []
    step = Trainer.step

    def noted(self: Trainer, batch: Any) -> None:
        batches.append(batch.index.tolist())
        step(self, batch)

    monkeypatch.setattr(Trainer, "step", noted)
    return batches


def check_interrupted(work: Callable[[Path], Any], folder: Path, numbers: Sequence[int]) -> Path:
    """A run that is interrupted in these of the optimizer's steps, and started again each time, ends
    as one that is not; the latter's folder."""

    def interrupt() -> None:
        raise KeyboardInterrupt

    work(folder / "whole")
    with pytest.MonkeyPatch.context() as patched:
        stop_in_steps(patched, numbers, interrupt)
        for _ in numbers:
            with pytest.raises(KeyboardInterrupt):
                work(folder / "parts")
        work(folder / "parts")
    check_same(folder / "whole", folder / "parts")
    return folder / "whole"


def learn_by_heart(task: Task, model: nn.Module, batch: Batch, enough: float) -> float:
    """Train on one batch until its mean score is at least ``enough``, or for 300 steps; the score."""
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
    """Runs of one test, each in a folder of its own, on one set."""

    def __init__(self, folder: Path, data: Path) -> None:
        self.folder = folder
        self.data = data

    def train(
        self, run: str = "run", /, *name: str, data: Path | None = None, **options: Any
    ) -> float:
        """As ``train``; ``data`` is another set."""
        return train(self.folder / run, data or self.data, *name, **options)

    def stop(self, step: int, run: str = "run", /, *name: str, **options: Any) -> None:
        """Train until a run is told to stop in one of its steps, after which it is saved."""
        right = Trainer.step

        def stops(trainer: Trainer, batch: Any) -> None:
            right(trainer, batch)
            if trainer.state.step == step:
                trainer.stop.number = signal.SIGINT

        with pytest.MonkeyPatch.context() as patched, pytest.raises(Interrupted):
            patched.setattr(Trainer, "step", stops)
            self.train(run, *name, **options)

    def refuse(self, message: str, run: str = "run", /, *name: str, **options: Any) -> None:
        """A run is refused before its first step."""
        with pytest.raises(UserError, match=message):
            self.train(run, *name, **options)
        assert not (self.folder / run / "metrics.jsonl").exists()

    def last(self, run: str = "run") -> dict[str, Any]:
        """The content of its ``last.pt``."""
        return load_checkpoint(self.folder / run / "last.pt")

    def best(self, run: str = "run") -> dict[str, Any]:
        return load_checkpoint(self.folder / run / "best.pt")

    def metrics(self, run: str = "run") -> list[dict]:
        return metrics(self.folder / run)

    def assert_same(self, a: str, b: str, *entries: str) -> None:
        """Two runs have the same checkpoints and records; or only these entries of the last."""
        for entry in entries:
            assert same(self.last(a)[entry], self.last(b)[entry]), entry
        if not entries:
            check_same(self.folder / a, self.folder / b)

    def check_interrupted(self, *numbers: int, **options: Any) -> None:
        check_interrupted(lambda x: train(x, self.data, **options), self.folder, numbers)
