"""What loggers cost a training run, in processor time."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from torch import nn
from tqdm import tqdm

from filmvqa.benchmark.settings import LoggingCostSettings
from filmvqa.system.errors import UserError
from filmvqa.system.layout import RunLayout
from filmvqa.system.tables import text_table
from filmvqa.training.loggers import Logger, build_loggers
from filmvqa.training.prepare import prepare_run
from filmvqa.training.run import trainer_of
from filmvqa.training.settings import LoggerSettings, RunSettings
from filmvqa.training.snapshots import Snapshot, SnapshotTaker


@dataclass(frozen=True)
class LoggingCost:
    """Processor seconds, user and system, of training from the first step to the last.

    Attributes
    ----------
    without, with_loggers
        A number for each pair of runs.
    inside
        Those of ``with_loggers`` that pass in the loggers beside ``metrics.jsonl`` and in what is
        computed for them.
    """

    without: list[float]
    with_loggers: list[float]
    inside: list[float]

    def table(self) -> str:
        """The pairs and their means as text."""
        more = [b / a - 1 for a, b in zip(self.without, self.with_loggers, strict=True)]
        within = [c / b for b, c in zip(self.with_loggers, self.inside, strict=True)]
        rows = [["pair", "without (s)", "with (s)", "difference", "inside loggers"]]
        rows += [
            [str(i), f"{a:.2f}", f"{b:.2f}", f"{100 * c:+.2f}%", f"{100 * d:.2f}%"]
            for i, (a, b, c, d) in enumerate(
                zip(self.without, self.with_loggers, more, within, strict=True), 1
            )
        ]
        rows += [
            ["mean", "", "", f"{100 * mean(more):+.2f}%", f"{100 * mean(within):.2f}%"],
            ["standard error", "", "", *(f"{100 * _error(v):.2f}%" for v in (more, within))],
        ]
        return text_table(rows)


def _error(values: list[float]) -> float:
    """The standard error of the mean; not a number for a single value."""
    return stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan


def logging_cost(settings: LoggingCostSettings) -> LoggingCost:
    """Train the same run with the loggers of ``settings`` and without, by turns.

    Processor time is compared, of all threads of this process: other programs disturb it less than
    the time on the clock, though they do. The time inside the loggers is measured besides, in the
    same runs. Which run of a pair comes first changes from pair to pair. A pair before them, in
    which packages are imported and kernels are compiled, is not counted.

    Raises
    ------
    UserError
        If ``settings`` ask for no logger, or as ``train_run``.
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
    """Seconds of a run, and those inside its loggers."""
    folder.mkdir()
    layout, watch = RunLayout(folder), _Stopwatch()
    run = prepare_run(layout, settings)
    first, *others = build_loggers(settings.logger, layout, settings.config)
    loggers: list[Logger] = [first, *(_TimedLogger(logger, watch) for logger in others)]
    try:
        trainer = trainer_of(run, loggers)
        if trainer.snapshots is not None:
            trainer.snapshots = _TimedTaker(trainer.snapshots, watch)
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

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        started = time.process_time()
        try:
            return function(*arguments)
        finally:
            self.seconds += time.process_time() - started


class _TimedLogger:
    """A logger whose calls are timed."""

    def __init__(self, logger: Logger, watch: _Stopwatch) -> None:
        self._logger, self._watch = logger, watch

    def log(self, record: dict[str, Any]) -> None:
        self._watch.call(self._logger.log, record)

    def show(self, step: int, snapshot: Snapshot) -> None:
        self._watch.call(self._logger.show, step, snapshot)

    def flush(self) -> None:
        self._watch.call(self._logger.flush)

    def close(self) -> None:
        self._logger.close()


class _TimedTaker(SnapshotTaker):
    """Takes snapshots as another does, and is timed."""

    def __init__(self, taker: SnapshotTaker, watch: _Stopwatch) -> None:
        self.__dict__.update(vars(taker))
        self._watch = watch

    def take(self, model: nn.Module) -> Snapshot | None:
        snapshot: Snapshot | None = self._watch.call(super().take, model)
        return snapshot
