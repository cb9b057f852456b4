"""Short training runs on the tiny set, and what they wrote."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from filmvqa.questions.settings import DataSettings
from filmvqa.training.run import train_run
from filmvqa.training.settings import (
    OptimSettings,
    RunSettings,
    TrainerSettings,
    TransferSettings,
)
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
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[k], b[k]) for k in a if k != "seconds")
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return bool(a == b)
