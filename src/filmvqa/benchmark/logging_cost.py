"""The processor time that loggers add to a training run."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from tqdm import tqdm

from filmvqa.benchmark.settings import LoggingCostSettings
from filmvqa.system.errors import UserError
from filmvqa.system.layout import RunLayout
from filmvqa.system.tables import text_table
from filmvqa.training.loggers import build_loggers
from filmvqa.training.prepare import prepare_run
from filmvqa.training.run import trainer_of
from filmvqa.training.settings import LoggerSettings, RunSettings


@dataclass(frozen=True)
class LoggingCost:
    """Processor seconds, user and system, of training from the first step to the last.

    Attributes
    ----------
    without, with_loggers
        A number for each pair of runs.
    inside
        The part of ``with_loggers`` inside the loggers other than ``metrics.jsonl``, and inside
        the snapshots that are taken for them.
    """

    without: list[float]
    with_loggers: list[float]
    inside: list[float]

    def table(self) -> str:
        """Format the pairs and their means as text."""
        rows = [["pair", "without (s)", "with (s)", "difference", "inside loggers"]]
        increases, shares = [], []
        pairs = zip(self.without, self.with_loggers, self.inside, strict=True)
        for i, (without, with_loggers, inside) in enumerate(pairs, 1):
            increases.append(with_loggers / without - 1)
            shares.append(inside / with_loggers)
            row = [str(i), f"{without:.2f}", f"{with_loggers:.2f}"]
            rows.append([*row, f"{100 * increases[-1]:+.2f}%", f"{100 * shares[-1]:.2f}%"])
        rows += [
            ["mean", "", "", f"{100 * mean(increases):+.2f}%", f"{100 * mean(shares):.2f}%"],
            ["standard error", "", "", *(f"{100 * _error(v):.2f}%" for v in (increases, shares))],
        ]
        return text_table(rows)


def _error(values: list[float]) -> float:
    """The standard error of the mean; NaN for a single value."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def logging_cost(settings: LoggingCostSettings) -> LoggingCost:
    """Train the same run with and without the loggers of ``settings``, alternately.

    The processor time of all threads of this process is compared, because other programs disturb
    it less than wall-clock time. The time inside the loggers is measured in the same runs. The
    order within a pair alternates. A first pair, which imports packages and compiles kernels, is
    not counted.

    Raises
    ------
    UserError
        If ``settings`` name no logger, or as ``train_run``.
    """
    if not (settings.logger.tensorboard or settings.logger.wandb):
        raise UserError("logger=none: has no cost to measure; choose tensorboard, or wandb")
    plain = replace(settings, logger=LoggerSettings())
    cost = LoggingCost([], [], [])
    with tempfile.TemporaryDirectory(prefix="filmvqa-logging-") as folder:
        for pair in tqdm(range(settings.pairs + 1), desc="measure", unit="pair"):
            for is_logged in (False, True) if pair % 2 else (True, False):
                target = Path(folder, f"{pair}-{is_logged}")
                seconds, inside = _measured_run(target, settings if is_logged else plain)
                if pair:
                    (cost.with_loggers if is_logged else cost.without).append(seconds)
                    if is_logged:
                        cost.inside.append(inside)
    return cost


def _measured_run(folder: Path, settings: RunSettings) -> tuple[float, float]:
    """The seconds of a run, and those inside its loggers."""
    folder.mkdir()
    layout, watch = RunLayout(folder), _Stopwatch()
    run = prepare_run(layout, settings)
    loggers = build_loggers(settings.logger, layout, settings.config)
    try:
        trainer = trainer_of(run, loggers)
        methods: list[tuple[object, str]] = [
            (logger, name) for logger in loggers[1:] for name in ("log", "show", "flush")
        ]
        if trainer.snapshots is not None:
            methods.append((trainer.snapshots, "take"))
        for owner, name in methods:
            setattr(owner, name, watch.timed(getattr(owner, name)))
        started = time.process_time()
        trainer.fit()
        return time.process_time() - started, watch.seconds
    finally:
        run.close()
        for logger in loggers:
            logger.close()


class _Stopwatch:
    """Sums the processor seconds of calls."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def timed(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a function so that its calls are timed."""

        def call(*arguments: Any) -> Any:
            started = time.process_time()
            try:
                return function(*arguments)
            finally:
                self.seconds += time.process_time() - started

        return call
