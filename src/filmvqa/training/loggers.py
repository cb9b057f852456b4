"""Loggers of metrics: ``metrics.jsonl``, and on request Weights & Biases and TensorBoard."""

from __future__ import annotations

import json
import os
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from filmvqa.features.images import read_picture
from filmvqa.settings.nested import flatten
from filmvqa.system.disk import DISK_FULL_ERRNOS, disk_full_error
from filmvqa.system.errors import UserError, one_line, warn
from filmvqa.system.layout import RunLayout
from filmvqa.system.tables import markdown_table
from filmvqa.training.settings import LoggerSettings
from filmvqa.training.snapshots import Snapshot
from filmvqa.training.wandb_logger import WandbLogger


class Logger(Protocol):
    """The interface of loggers."""

    def log(self, record: dict[str, Any]) -> None:
        """Log one record of metrics, whose key ``step`` is the step."""

    def show(self, step: int, snapshot: Snapshot) -> None:
        """Log a snapshot of the network, taken at an evaluation."""

    def flush(self) -> None:
        """Write buffered records to the disk."""

    def close(self) -> None:
        """Close the logger; nothing can be logged afterwards."""


class JsonlLogger:
    """Writes records to a file, one JSON object per line.

    An existing file keeps its first ``records`` lines. The lines after them were logged after the
    run's last checkpoint; the resumed run logs them again.
    """

    def __init__(self, path: str | Path, records: int = 0) -> None:
        self.path = Path(path)
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        self._release = weakref.finalize(self, os.close, self._descriptor)
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
        """Append a record.

        Raises ``UserError`` if the disk is full; the file then ends with the previous record.
        """
        line = json.dumps(record).encode() + b"\n"
        try:
            written = os.write(self._descriptor, line)
            if written < len(line):  # the disk is full; this write raises the error
                os.write(self._descriptor, line[written:])
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._descriptor, self._size)
            if error.errno in DISK_FULL_ERRNOS:
                raise disk_full_error(self.path, len(line), error) from None
            raise
        self._size += len(line)

    def show(self, step: int, snapshot: Snapshot) -> None:
        """Do nothing: the file has only numbers."""

    def flush(self) -> None:
        os.fsync(self._descriptor)

    def close(self) -> None:
        self._release()


class SideLogger:
    """A logger beside ``metrics.jsonl`` that never ends a run.

    Its first error is printed as a warning, and the logger is not called again.

    Parameters
    ----------
    title
        The logger's name in the warning.
    start
        Opens the logger. Only a ``UserError`` raised here ends the run.
    """

    def __init__(self, title: str, start: Callable[[], Logger]) -> None:
        self._title = title
        self._logger: Logger | None = None
        with self._off_after_errors("does not start"):
            self._logger = start()

    def log(self, record: dict[str, Any]) -> None:
        self._call("log", record)

    def show(self, step: int, snapshot: Snapshot) -> None:
        self._call("show", step, snapshot)

    def flush(self) -> None:
        self._call("flush")

    def close(self) -> None:
        self._call("close")
        self._logger = None

    def _call(self, method: str, *arguments: Any) -> None:
        if self._logger is not None:
            with self._off_after_errors("stopped"):
                getattr(self._logger, method)(*arguments)

    @contextmanager
    def _off_after_errors(self, problem: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            if self._logger is None and isinstance(error, UserError):
                raise
            warn(f"{self._title} {problem} ({one_line(error)}); continuing without it")
            failed, self._logger = self._logger, None
            if failed is not None:
                with suppress(Exception):
                    failed.close()


class TensorBoardLogger:
    """Writes records and snapshots for TensorBoard into a folder.

    Parameters
    ----------
    step
        The step from which the run is resumed. TensorBoard does not show later records of an
        interrupted run.

    Raises
    ------
    UserError
        If TensorBoard is not installed.
    """

    def __init__(self, folder: Path, step: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ModuleNotFoundError as error:
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
        for name, values in snapshot.by_block():
            self._writer.add_histogram(name, values, step)
        header = ["", "question", "truth", "answer", "probability"]
        rows = [
            [str(i), e.question, e.truth, e.answer, f"{100 * e.probability:.1f}%"]
            for i, e in enumerate(snapshot.examples, 1)
        ]
        self._writer.add_text("examples", markdown_table(header, rows, 4), step)
        if not self._pictures_are_shown:  # the pictures are the same at each evaluation
            self._pictures_are_shown = True
            for i, example in enumerate(snapshot.examples, 1):
                if example.picture is not None:
                    picture = read_picture(example.picture)
                    self._writer.add_image(f"examples/{i}", picture, step, dataformats="HWC")

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def build_loggers(
    settings: LoggerSettings,
    layout: RunLayout,
    config: dict[str, Any],
    records: int = 0,
    step: int = 0,
) -> list[Logger]:
    """The loggers of a run: a ``JsonlLogger`` and those that the settings name.

    ``records`` is the number of lines that an existing ``metrics.jsonl`` keeps, ``step`` the step
    from which the run is resumed.
    """
    loggers: list[Logger] = [JsonlLogger(layout.metrics, records)]
    if settings.tensorboard:
        loggers.append(SideLogger(
            "logger=tensorboard: TensorBoard", lambda: TensorBoardLogger(layout.tensorboard, step)
        ))  # fmt: skip
    if settings.wandb:
        loggers.append(SideLogger(
            "logger=wandb: W&B", lambda: WandbLogger(layout, settings.project, config)
        ))  # fmt: skip
    return loggers
