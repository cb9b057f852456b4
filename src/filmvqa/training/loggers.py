"""Where metrics go: always to ``metrics.jsonl``, on request to Weights & Biases too."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any, Protocol

from filmvqa.disk import DISK_FULL_ERRNOS, disk_full_error
from filmvqa.errors import UserError, one_line, warn
from filmvqa.layout import RunLayout

#: Seconds for which W&B may hold up the start, and the end, of a run.
WANDB_TIMEOUT = 30.0


class Logger(Protocol):
    """Logs one record of metrics at a time."""

    def log(self, record: dict[str, Any]) -> None: ...

    def flush(self) -> None:
        """Write what was logged to the disk."""

    def close(self) -> None: ...


class JsonlLogger:
    """One JSON object a line, written whole or not at all.

    The file keeps its first ``records`` lines. Those that follow were written by an interrupted run
    after its last checkpoint, and will be logged again.
    """

    def __init__(self, path: str | Path, records: int = 0) -> None:
        self.path = Path(path)
        self._handle = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        content = self.path.read_bytes()
        lines = content.splitlines(keepends=True)[:records]
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()  # the line that a crash cut short
        if len(lines) < records:
            warn(f"{path}: has {len(lines)} of the {records} records that its checkpoint counts")
        self._size = sum(map(len, lines))
        if self._size < len(content):
            os.ftruncate(self._handle, self._size)

    def log(self, record: dict[str, Any]) -> None:
        """Raises ``UserError`` if there is no room; the file then ends with the record before."""
        line = json.dumps(record).encode() + b"\n"
        try:
            written = os.write(self._handle, line)
            if written < len(line):  # no room for the rest: this write raises the error
                os.write(self._handle, line[written:])
        except OSError as error:
            with suppress(OSError):
                os.ftruncate(self._handle, self._size)
            if error.errno in DISK_FULL_ERRNOS:
                raise disk_full_error(self.path, len(line), error) from None
            raise
        self._size += len(line)

    def flush(self) -> None:
        os.fsync(self._handle)

    def close(self) -> None:
        os.close(self._handle)


class WandbLogger:
    """Weights & Biases, offline where there is no key. An error of it is one warning, and never
    ends a run."""

    def __init__(self, folder: Path, project: str, name: str, config: dict[str, Any]) -> None:
        self._run: Any = None
        try:
            import wandb

            online = os.environ.get("WANDB_API_KEY") or (Path.home() / ".netrc").exists()
            mode: Any = os.environ.get("WANDB_MODE") or ("online" if online else "offline")
            settings = wandb.Settings(init_timeout=WANDB_TIMEOUT, silent=True)
            with suppress(Exception):  # older versions have no such limit
                settings.finish_timeout = WANDB_TIMEOUT
            arguments: dict[str, Any] = {
                "project": project,
                "name": name,
                "dir": folder,
                "config": config,
            }
            try:
                self._run = wandb.init(**arguments, mode=mode, settings=settings)
            except Exception as error:
                if mode == "offline":
                    raise
                warn(f"W&B cannot be reached ({one_line(error)}); logging offline")
                self._run = wandb.init(**arguments, mode="offline", settings=settings)
        except Exception as error:
            warn(f"W&B does not start ({one_line(error)}); going on without it")

    def log(self, record: dict[str, Any]) -> None:
        metrics = {k: v for k, v in record.items() if k != "step"}
        self._try("log", metrics, step=record["step"])

    def flush(self) -> None:
        """W&B's own process keeps what was logged."""

    def close(self) -> None:
        self._try("finish")
        self._run = None

    def _try(self, method: str, *arguments: Any, **options: Any) -> None:
        if self._run is None:
            return
        try:
            getattr(self._run, method)(*arguments, **options)
        except Exception as error:
            warn(f"W&B stopped ({one_line(error)}); going on without it")
            self._run = None
            # Otherwise W&B tries again when the program ends, and complains over many lines.
            with suppress(Exception):
                import wandb

                wandb.teardown()


def build_loggers(
    name: str | None,
    project: str,
    layout: RunLayout,
    config: dict[str, Any],
    records: int,
) -> list[Logger]:
    """The JSONL logger, which keeps the first ``records`` lines of an existing file, and, for
    ``wandb``, W&B's."""
    if name not in (None, "wandb"):
        raise UserError(f"logger.name={name!r}; choose wandb or null")
    loggers: list[Logger] = [JsonlLogger(layout.metrics, records)]
    if name == "wandb":
        loggers.append(WandbLogger(layout.folder, project, layout.folder.name, config))
    return loggers
