"""The measurement of the cost of loggers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from filmvqa.benchmark import logging_cost as measured
from filmvqa.benchmark.settings import LoggingCostSettings
from filmvqa.system.errors import UserError
from filmvqa.training.loggers import TensorBoardLogger
from filmvqa.training.settings import LoggerSettings, OptimSettings, TrainerSettings
from tests.conftest import set_in
from tests.models.small_models import SMALL


def settings(data: Path, **logger: bool) -> LoggingCostSettings:
    return LoggingCostSettings(
        data=set_in(data),
        model={"name": "film", **SMALL["film"]},
        optim=OptimSettings(name="adam", lr=1e-3),
        trainer=TrainerSettings(batch_size=32, max_steps=4, eval_every=2, log_every=2),
        pairs=1,
        device="cpu",
        logger=LoggerSettings(**logger),
    )


def burn(seconds: float) -> None:
    """Use processor time."""
    end = time.process_time() + seconds
    while time.process_time() < end:
        pass


def test_what_loggers_take_is_measured(tiny_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two evaluations of half a second each."""
    show = TensorBoardLogger.show

    def slow(self: TensorBoardLogger, *arguments: Any) -> None:
        burn(0.5)
        show(self, *arguments)

    monkeypatch.setattr(TensorBoardLogger, "show", slow)
    cost = measured.logging_cost(settings(tiny_set, tensorboard=True))
    assert len(cost.without) == len(cost.with_loggers) == len(cost.inside) == 1
    assert 1.0 <= cost.inside[0] < 1.5
    assert cost.inside[0] < cost.with_loggers[0]
    assert 0 < cost.without[0] < cost.with_loggers[0]
    with pytest.raises(UserError, match="logger=none: has no cost to measure"):
        measured.logging_cost(settings(tiny_set))


def test_the_table_has_means_over_pairs() -> None:
    cost = measured.LoggingCost([10.0, 20.0], [10.1, 20.6], [0.101, 0.412])
    lines = [line.split() for line in cost.table().splitlines()]
    assert lines[1] == ["1", "10.00", "10.10", "+1.00%", "1.00%"]
    assert lines[3] == ["mean", "+2.00%", "1.50%"]
    assert lines[4] == ["standard", "error", "1.00%", "0.50%"]
