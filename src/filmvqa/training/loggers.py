"""Loggers of metrics: ``metrics.jsonl``, and optionally Weights & Biases and TensorBoard."""

from __future__ import annotations

import json
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from torch import Tensor

from filmvqa.features.images import read_picture
from filmvqa.settings.nested import flatten
from filmvqa.system.disk import DISK_FULL_ERRNOS, disk_full_error
from filmvqa.system.errors import UserError, one_line, warn
from filmvqa.system.layout import RunLayout
from filmvqa.system.tables import markdown_table
from filmvqa.training.settings import LoggerSettings
from filmvqa.training.snapshots import Snapshot

#: Seconds for which W&B may delay the start and the end of a run.
WANDB_TIMEOUT = 30.0


class Logger(Protocol):
    """The interface of loggers."""

    def log(self, record: dict[str, Any]) -> None:
        """Log one record of metrics, with the key ``step``."""

    def show(self, step: int, snapshot: Snapshot) -> None:
        """Show what the network does, at an evaluation."""

    def flush(self) -> None:
        """Flush the logged records to the disk."""

    def close(self) -> None:
        """Release what the logger holds; nothing can be logged afterwards."""


class JsonlLogger:
    """Writes records to a file, one JSON object per line.

    An existing file keeps its first ``records`` lines. An interrupted run wrote those that follow
    after its last checkpoint; they will be logged again.
    """

    def __init__(self, path: str | Path, records: int = 0) -> None:
        self.path = Path(path)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self._release = weakref.finalize(self, os.close, self._descriptor)  # if it is not closed
        content = self.path.read_bytes()
        lines = content.splitlines(keepends=True)[:records]
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()  # a crash truncated the last line
        if len(lines) < records:
            warn(f"{path}: has {len(lines)} of the {records} records that the checkpoint counts")
        self._size = sum(map(len, lines))
        if self._size < len(content):
            os.ftruncate(self._descriptor, self._size)

    def log(self, record: dict[str, Any]) -> None:
        """Append a record. Raises ``UserError`` if the disk is full; the file then ends with the
        previous record."""
        line = json.dumps(record).encode() + b"\n"
        try:
            written = os.write(self._descriptor, line)
            if written < len(line):  # the disk is full: this write raises the error
                os.write(self._descriptor, line[written:])
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            if error.errno in DISK_FULL_ERRNOS:
                raise disk_full_error(self.path, len(line), error) from None
            raise
        self._size += len(line)

    def show(self, step: int, snapshot: Snapshot) -> None:
        """Nothing: the file has numbers alone."""

    def flush(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        self._release()


class WandbLogger:
    """Logs to Weights & Biases; offline if it cannot be reached, or knows no usable key.

    W&B's own settings apply (``WANDB_MODE``, ``WANDB_API_KEY``, ``~/.netrc``). It never asks at the
    terminal, as training would wait for the answer. An error of W&B does not end a run: it is
    reported as one warning, and logging to W&B stops.
    """

    def __init__(self, folder: Path, project: str, name: str, config: dict[str, Any]) -> None:
        self._run: Any = None
        try:
            import wandb

            settings = wandb.Settings(init_timeout=WANDB_TIMEOUT, silent=True)
            with suppress(Exception):  # older versions have no such setting
                settings.finish_timeout = WANDB_TIMEOUT
            arguments: dict[str, Any] = {
                "project": project,
                "name": name,
                "dir": folder,
                "config": config,
                "settings": settings,
            }
            with _no_terminal():
                try:
                    self._run = wandb.init(**arguments)
                except Exception as error:
                    self._run = wandb.init(**arguments, mode="offline")
                    warn(
                        f"W&B cannot log online ({one_line(error)}); logging offline: after "
                        f"`wandb login`, send it with `wandb sync {folder}/wandb/offline-run-*`"
                    )
        except Exception as error:
            warn(f"W&B does not start ({one_line(error)}); going on without it")

    def log(self, record: dict[str, Any]) -> None:
        metrics = {k: v for k, v in record.items() if k != "step"}
        self._try("log", metrics, step=record["step"])

    def show(self, step: int, snapshot: Snapshot) -> None:
        if self._run is None:
            return
        try:
            import wandb

            columns: list[str | int] = ["picture", "question", "truth", "answer", "probability"]
            rows = [
                [e.picture and wandb.Image(str(e.picture)), e.question, e.truth, e.answer,
                 e.probability]
                for e in snapshot.examples
            ]  # fmt: skip
            shown: dict[str, Any] = {"examples": wandb.Table(columns=columns, data=rows)}
            for name, values in _by_block(snapshot):
                shown[name] = wandb.Histogram(values.flatten().tolist())
        except Exception as error:
            warn(f"W&B cannot show examples ({one_line(error)}); going on without them")
            return
        self._try("log", shown, step=step)

    def flush(self) -> None:
        """Nothing to do: W&B's process has the records."""

    def close(self) -> None:
        self._try("finish")
        self._run = None

    def _try(self, method: str, *arguments: Any, **options: Any) -> None:
        """Call a method of the W&B run; an error is a warning and ends logging to W&B."""
        if self._run is None:
            return
        try:
            getattr(self._run, method)(*arguments, **options)
        except Exception as error:
            warn(f"W&B stopped ({one_line(error)}); going on without it")
            self._run = None
            # Otherwise W&B tries again when the program ends, and prints many lines.
            with suppress(Exception):
                import wandb

                wandb.teardown()


class TensorBoardLogger:
    """Writes records and snapshots for TensorBoard into a folder.

    Parameters
    ----------
    step
        The step from which a run goes on: what an interrupted run wrote after it is not shown.

    Raises
    ------
    UserError
        If TensorBoard is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise UserError(
                f"logger=tensorboard: needs the package tensorboard ({one_line(error)}); run "
                "pip install tensorboard"
            ) from None
        self._writer: Any = SummaryWriter(folder, purge_step=step + 1 if step else None)
        self._pictures_are_shown = False

    def log(self, record: dict[str, Any]) -> None:
        for name, value in flatten(record).items():
            if name != "step":
                self._writer.add_scalar(name.replace(".", "/"), value, record["step"])

    def show(self, step: int, snapshot: Snapshot) -> None:
        for name, values in _by_block(snapshot):
            self._writer.add_histogram(name, values, step)
        header = ["", "question", "truth", "answer", "probability"]
        rows = [
            [str(i), e.question, e.truth, e.answer, f"{100 * e.probability:.1f}%"]
            for i, e in enumerate(snapshot.examples, 1)
        ]
        self._writer.add_text("examples", markdown_table(header, rows, 4), step)
        if not self._pictures_are_shown:  # they are the same ones each time
            self._pictures_are_shown = True
            for i, example in enumerate(snapshot.examples, 1):
                if example.picture is not None:
                    picture = read_picture(example.picture)
                    self._writer.add_image(f"examples/{i}", picture, step, dataformats="HWC")

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def _by_block(snapshot: Snapshot) -> Iterator[tuple[str, Tensor]]:
    """γ and β of each block (N, C) with their names."""
    for name, values in (("gamma", snapshot.gamma), ("beta", snapshot.beta)):
        if values is not None:
            for i in range(values.shape[1]):
                yield f"{name}/block_{i + 1}", values[:, i]


@contextmanager
def _no_terminal() -> Iterator[None]:
    """While standard input is no terminal but empty, so that nothing is asked there."""
    stdin = sys.stdin
    with open(os.devnull) as nothing:
        sys.stdin = nothing
        try:
            yield
        finally:
            sys.stdin = stdin


def build_loggers(
    settings: LoggerSettings,
    layout: RunLayout,
    config: dict[str, Any],
    records: int = 0,
    step: int = 0,
) -> list[Logger]:
    """The loggers of a run: a ``JsonlLogger`` and those that the settings ask for.

    ``records`` is the number of lines that an existing ``metrics.jsonl`` keeps, and ``step`` the
    one from which the run goes on.
    """
    loggers: list[Logger] = [JsonlLogger(layout.metrics, records)]
    if settings.tensorboard:
        loggers.append(TensorBoardLogger(layout.tensorboard, step))
    if settings.wandb:
        name = layout.folder.name
        loggers.append(WandbLogger(layout.folder, settings.project, name, config))
    return loggers
