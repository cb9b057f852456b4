"""Loggers of metrics: ``metrics.jsonl`` and, optionally, Weights & Biases."""

from __future__ import annotations

import json
import os
import sys
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

from filmvqa.disk import DISK_FULL_ERRNOS, disk_full_error
from filmvqa.errors import UserError, one_line, warn
from filmvqa.layout import RunLayout

#: Seconds for which W&B may delay the start and the end of a run.
WANDB_TIMEOUT = 30.0


class Logger(Protocol):
    """The interface of loggers."""

    def log(self, record: dict[str, Any]) -> None:
        """Log one record of metrics, with the key ``step``."""

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
    name: str | None,
    project: str,
    layout: RunLayout,
    config: dict[str, Any],
    records: int,
) -> list[Logger]:
    """The loggers of a run: a ``JsonlLogger`` and, if ``name`` is ``wandb``, a ``WandbLogger``.

    ``records`` is the number of lines that an existing ``metrics.jsonl`` keeps. Raises
    ``UserError`` for another name.
    """
    if name not in (None, "wandb"):
        raise UserError(f"logger.name={name!r}; choose wandb or null")
    loggers: list[Logger] = [JsonlLogger(layout.metrics, records)]
    if name == "wandb":
        loggers.append(WandbLogger(layout.folder, project, layout.folder.name, config))
    return loggers
