"""Where metrics go: always to ``metrics.jsonl``, on request to Weights & Biases too."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any, Protocol

from filmvqa.errors import UserError


class Logger(Protocol):
    """Takes one record of metrics at a time."""

    def log(self, record: dict[str, Any]) -> None: ...

    def close(self) -> None: ...


class JsonlLogger:
    """One JSON object a line, flushed as it is written.

    On resuming at ``step``, records after it are dropped: they will come again.
    """

    def __init__(self, path: str | Path, step: int = 0) -> None:
        path = Path(path)
        kept = []
        if step and path.exists():
            for line in path.read_text().splitlines():
                try:
                    record = json.loads(line)
                except ValueError:
                    break  # the line that a crash cut short
                if record["step"] <= step:
                    kept.append(line + "\n")
        path.write_text("".join(kept))
        self._stream = path.open("a")

    def log(self, record: dict[str, Any]) -> None:
        self._stream.write(json.dumps(record) + "\n")
        self._stream.flush()

    def close(self) -> None:
        self._stream.close()


class WandbLogger:
    """Weights & Biases, offline where there is no key; trouble with it never stops a run."""

    def __init__(self, folder: Path, project: str, name: str, config: dict[str, Any]) -> None:
        self._run: Any = None
        try:
            import wandb

            online = os.environ.get("WANDB_API_KEY") or (Path.home() / ".netrc").exists()
            mode: Any = os.environ.get("WANDB_MODE") or ("online" if online else "offline")
            settings = wandb.Settings(init_timeout=30, silent=True)
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
                warnings.warn(f"W&B cannot be reached ({error}); logging offline", stacklevel=2)
                self._run = wandb.init(**arguments, mode="offline", settings=settings)
        except Exception as error:
            warnings.warn(f"W&B does not start ({error}); going on without it", stacklevel=2)

    def log(self, record: dict[str, Any]) -> None:
        if self._run is None:
            return
        try:
            self._run.log({k: v for k, v in record.items() if k != "step"}, step=record["step"])
        except Exception as error:
            warnings.warn(f"W&B stopped ({error}); going on without it", stacklevel=2)
            self._run = None

    def close(self) -> None:
        if self._run is None:
            return
        try:
            self._run.finish()
        except Exception as error:
            warnings.warn(f"W&B did not finish ({error})", stacklevel=2)


def build_loggers(
    name: str | None, project: str, folder: Path, run_name: str, config: dict[str, Any], step: int
) -> list[Logger]:
    """The JSONL logger and, for ``wandb``, W&B's."""
    if name not in (None, "wandb"):
        raise UserError(f"logger.name={name!r}; choose wandb or null")
    loggers: list[Logger] = [JsonlLogger(folder / "metrics.jsonl", step)]
    if name == "wandb":
        loggers.append(WandbLogger(folder, project, run_name, config))
    return loggers
