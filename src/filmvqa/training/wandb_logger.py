"""The logger of Weights & Biases."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec

from filmvqa.features.images import read_picture
from filmvqa.system.errors import one_line, warn
from filmvqa.system.files import write_file
from filmvqa.system.layout import RunLayout
from filmvqa.system.side_output import environment
from filmvqa.training.snapshots import Snapshot

#: Seconds by which W&B may delay the start and the end of a run.
WANDB_TIMEOUT = 30.0


class _RunFile(msgspec.Struct):
    """The content of ``wandb_run.json``: a run's id for W&B, and the run's folder."""

    id: str
    folder: str


class WandbLogger:
    """Logs to Weights & Biases, or offline if W&B cannot be reached or has no usable key.

    W&B's own settings apply (``WANDB_MODE``, ``WANDB_API_KEY``, ``~/.netrc``). W&B never prompts at
    the terminal, as training would wait for the answer. A resumed run is the same run for W&B, by
    the id in the run's folder.
    """

    def __init__(self, layout: RunLayout, project: str, config: dict[str, Any]) -> None:
        # Without a home folder, W&B's process would otherwise print to standard error.
        cache = os.environ.get("WANDB_CACHE_DIR", str(layout.wandb / "cache"))
        with environment(WANDB_SILENT="true", WANDB_CACHE_DIR=cache), _no_terminal():
            import wandb

            self._wandb = wandb
            settings = wandb.Settings(init_timeout=WANDB_TIMEOUT, silent=True)
            with suppress(Exception):  # older versions lack this setting
                settings.finish_timeout = WANDB_TIMEOUT
            arguments: dict[str, Any] = {
                "project": project, "name": layout.folder.name, "dir": layout.folder,
                "config": config, "settings": settings, "resume": "allow", "allow_val_change": True,
            }  # fmt: skip
            try:
                self._run: Any = wandb.init(**arguments, id=_run_id(layout))
            except Exception as error:
                with suppress(Exception):
                    wandb.teardown()  # releases the id
                if "deleted" in str(error):  # the server never accepts a deleted run's id again
                    self._run = wandb.init(**arguments, id=_run_id(layout, new=True))
                    return
                self._run = wandb.init(**arguments, id=_run_id(layout), mode="offline")
                warn(
                    f"W&B cannot log online ({one_line(error)}); logging offline: after "
                    f"`wandb login`, send it with `wandb sync {layout.wandb}/offline-run-*`"
                )

    def log(self, record: dict[str, Any]) -> None:
        metrics = {k: v for k, v in record.items() if k != "step"}
        self._run.log(metrics, step=record["step"])

    def show(self, step: int, snapshot: Snapshot) -> None:
        wandb = self._wandb
        columns: list[str | int] = ["picture", "question", "truth", "answer", "probability"]
        rows = [
            [e.picture and wandb.Image(read_picture(e.picture)), e.question, e.truth, e.answer,
             e.probability]
            for e in snapshot.examples
        ]  # fmt: skip
        media: dict[str, Any] = {"examples": wandb.Table(columns=columns, data=rows)}
        for name, values in snapshot.by_block():
            media[name] = wandb.Histogram(values.flatten().tolist())
        self._run.log(media, step=step)

    def flush(self) -> None:
        """Do nothing: W&B's process has the records."""

    def close(self) -> None:
        try:
            self._run.finish()
        except Exception:
            # Otherwise W&B tries again at the program's end, and prints many lines.
            with suppress(Exception):
                self._wandb.teardown()
            raise


def _run_id(layout: RunLayout, *, new: bool = False) -> str:
    """The run's id for W&B, stored in the run's folder.

    A moved folder keeps its id. A copy of a folder that still exists gets a new one, so that W&B
    does not mix the two runs. ``WANDB_RUN_ID`` has precedence.
    """
    if run_id := os.environ.get("WANDB_RUN_ID"):
        return run_id
    stored, folder = _read_run_file(layout.wandb_run), str(layout.folder.resolve())
    if stored is not None and stored.folder != folder:
        new |= _read_run_file(RunLayout(Path(stored.folder)).wandb_run) == stored
    run_id = secrets.token_hex(4) if new or stored is None else stored.id
    write_file(layout.wandb_run, msgspec.json.encode(_RunFile(run_id, folder)))
    return run_id


def _read_run_file(path: Path) -> _RunFile | None:
    """Read ``wandb_run.json``; None if it is missing or damaged."""
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(path.read_bytes(), type=_RunFile)
    return None


@contextmanager
def _no_terminal() -> Iterator[None]:
    """A block in which standard input is empty, so that W&B does not prompt."""
    stdin = sys.stdin
    with open(os.devnull) as empty:
        sys.stdin = empty
        try:
            yield
        finally:
            sys.stdin = stdin
