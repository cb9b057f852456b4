"""Losses and weights that are not finite, too little memory, and other errors in training."""

from __future__ import annotations

import json
from itertools import count
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from filmvqa.models.film_net import FilmNet
from filmvqa.system.errors import UserError
from filmvqa.training.trainer import Trainer
from tests.training.tiny_runs import Runs, after_steps, record_batches


def change_logits(monkeypatch: pytest.MonkeyPatch, step: int, change: Any) -> None:
    """Change the network's output in a training step."""
    forward, steps = FilmNet.forward, count(1)

    def changed(self: FilmNet, *arguments: Any) -> torch.Tensor:
        logits = forward(self, *arguments)
        return change(logits) if self.training and next(steps) == step else logits

    monkeypatch.setattr(FilmNet, "forward", changed)


def test_a_loss_that_is_not_finite_stops_the_run(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = record_batches(monkeypatch)
    change_logits(monkeypatch, 11, lambda logits: logits * float("nan"))
    with pytest.raises(UserError, match=r"the loss is nan at step 11; the 32 questions .* kept"):
        runs.train()
    record = json.loads((runs.folder / "run/not_finite.json").read_text())
    assert record["step"] == 11
    assert record["rows"] == batches[10]
    assert record["questions"].endswith("train_questions.h5")
    kept = runs.last()
    assert kept["progress"]["step"] == 8
    assert all(w.isfinite().all() for w in kept["weights"].values() if w.is_floating_point())
    assert [r["step"] for r in runs.metrics() if "loss" in r] == [4, 8]


def test_weights_that_are_not_finite_are_not_saved(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The last step's loss is finite, but the weights after it are not."""

    def ruin(trainer: Trainer, batch: Any) -> None:
        if trainer.state.step == 16:
            next(trainer.state.model.parameters()).data.fill_(float("inf"))

    after_steps(monkeypatch, ruin)
    with pytest.raises(UserError, match="is not finite at step 16"):
        runs.train()
    assert runs.last()["progress"]["step"] == 8


@pytest.mark.parametrize(
    "error", [torch.OutOfMemoryError("CUDA out of memory"), MemoryError(),
              RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried")],
)  # fmt: skip
def test_out_of_memory_says_what_to_lower(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    runs.train("whole")
    change_logits(monkeypatch, 11, Mock(side_effect=error))
    with pytest.raises(
        UserError,
        match=r"out of memory on cpu at step 11: .*take about \d+.* of 32 questions .*; resume with "
        r"store=stream, or in a new run \(run=<name>\) lower trainer\.batch_size",
    ):
        runs.train()
    runs.train(run={"store": "stream"})  # the message's remedy
    runs.assert_same("whole", "run", "weights")
    assert runs.metrics("whole") == runs.metrics()


def test_other_errors_are_not_explained(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    change_logits(monkeypatch, 1, Mock(side_effect=error))
    with pytest.raises(RuntimeError, match="mat1"):
        runs.train()
