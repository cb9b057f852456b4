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

#: Seconds for which W&B may delay the start and the end of a run.
WANDB_TIMEOUT = 30.0


class _Kept(msgspec.Struct):
    """A run's id for W&B, and the folder that has it."""

    id: str
    folder: str


class WandbLogger:
    """Logs to Weights & Biases; offline if it cannot be reached, or knows no usable key.

    W&B's own settings apply (``WANDB_MODE``, ``WANDB_API_KEY``, ``~/.netrc``). It never asks at the
    terminal, as training would wait for the answer. A run that goes on is the same run for W&B, by
    the id that its folder keeps.
    """

    def __init__(self, layout: RunLayout, project: str, config: dict[str, Any]) -> None:
        # Elsewhere its process logs on standard error if there is no home folder to log in.
        cache = os.environ.get("WANDB_CACHE_DIR", str(layout.wandb / "cache"))
        with environment(WANDB_SILENT="true", WANDB_CACHE_DIR=cache), _no_terminal():
            import wandb

            self._wandb = wandb
            settings = wandb.Settings(init_timeout=WANDB_TIMEOUT, silent=True)
            with suppress(Exception):  # older versions have no such setting
                settings.finish_timeout = WANDB_TIMEOUT
            arguments: dict[str, Any] = {
                "project": project, "name": layout.folder.name, "dir": layout.folder,
                "config": config, "settings": settings, "resume": "allow", "allow_val_change": True,
            }  # fmt: skip
            try:
                self._run: Any = wandb.init(**arguments, id=_run_id(layout))
            except Exception as error:
                with suppress(Exception):
                    wandb.teardown()  # or the id would be in use
                if "deleted" in str(error):  # on the server, where its id is never used again
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
        shown: dict[str, Any] = {"examples": wandb.Table(columns=columns, data=rows)}
        for name, values in snapshot.by_block():
            shown[name] = wandb.Histogram(values.flatten().tolist())
        self._run.log(shown, step=step)

    def flush(self) -> None:
        """Nothing to do: W&B's process has the records."""

    def close(self) -> None:
        try:
            self._run.finish()
        except Exception:
            # Otherwise W&B tries again when the program ends, and prints many lines.
            with suppress(Exception):
                self._wandb.teardown()
            raise


def _run_id(layout: RunLayout, *, new: bool = False) -> str:
    """The run's id for W&B, which its folder keeps, also where that is moved to; a copy of a folder
    that is still there has another, so that two runs are not one. ``WANDB_RUN_ID`` has precedence.
    """
    if given := os.environ.get("WANDB_RUN_ID"):
        return given
    kept, folder = _read_kept(layout.wandb_run), str(layout.folder.resolve())
    if kept is not None and kept.folder != folder:
        new |= _read_kept(RunLayout(Path(kept.folder)).wandb_run) == kept
    run_id = secrets.token_hex(4) if new or kept is None else kept.id
    write_file(layout.wandb_run, msgspec.json.encode(_Kept(run_id, folder)))
    return run_id


def _read_kept(path: Path) -> _Kept | None:
    """The id and the folder that a file keeps; None if there is none, or it is damaged."""
    with suppress(OSError, msgspec.MsgspecError):
        return msgspec.json.decode(path.read_bytes(), type=_Kept)
    return None


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
