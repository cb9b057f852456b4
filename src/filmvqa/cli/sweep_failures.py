"""Failed jobs of a sweep: recorded in the jobs' folders, and listed when the sweep ends.

Jobs may run in other processes or on other machines, so they report failures by files.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from subprocess import CalledProcessError
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, open_dict

from filmvqa.cli.job_folders import overrides_of_jobs
from filmvqa.cli.joblib_sweeps import stop_jobs_on_signals
from filmvqa.cli.messages import USER_ERRORS, explain
from filmvqa.cli.overrides import quote
from filmvqa.system import processes
from filmvqa.system.errors import UserError, one_line

FAILURE_FILE = "failure.txt"


@dataclass
class _Sweep:
    """The folder, start time and launcher of the sweep that this process started, if any."""

    folder: Path | None = None
    started: float = 0.0
    launcher: str = "basic"


_SWEEP = _Sweep()


class RememberSweep(Callback):
    """A Hydra callback that remembers the sweep's folder in the process that starts the sweep.

    It also gives each job a different folder in that folder: the names contain whatever the sweep
    varies, and a config that sets the sweep's folder does not change it for single jobs.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        hydra = config.hydra
        _SWEEP.folder = Path(hydra.sweep.dir).absolute()
        _SWEEP.started = time.time()
        _SWEEP.launcher = hydra.runtime.choices["hydra/launcher"]
        if _SWEEP.launcher == "joblib":
            stop_jobs_on_signals()
        with open_dict(hydra):  # the jobs' configs are composed with these overrides
            sweep_dir = f"hydra.sweep.dir={quote(str(hydra.sweep.dir))}"
            hydra.overrides.hydra += [*overrides_of_jobs(hydra), sweep_dir]


@contextmanager
def record_failure(debug: bool) -> Iterator[None]:
    """A block that records an exception of a sweep's job in the job's folder, prints one line, and
    raises it again.

    The launcher then runs the other jobs, and an optimising sweeper knows that the job failed.
    """
    if not processes.is_first():  # an error here also fails or ends the first process
        yield
        return
    folder = Path(HydraConfig.get().runtime.output_dir)
    path = folder / FAILURE_FILE
    path.unlink(missing_ok=True)
    try:
        yield
    except Exception as error:
        is_user_error = isinstance(error, USER_ERRORS) or processes.is_lost_process(error)
        reason = explain(error) if is_user_error else f"{type(error).__name__}: {error}"
        # The names of a sweep's runs are fixed by what it varies; its folder can be chosen.
        reason = reason.replace("another run=<name>", "another hydra.sweep.dir=<folder>")
        line = " ".join(f"{folder.name}: {reason}".split())
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(f"{line}\n\n{traceback.format_exc()}", encoding="utf-8")
        print(f"error: {line}; the other jobs continue", file=sys.stderr, flush=True)
        if debug or not is_user_error:
            traceback.print_exc()
        raise


def raise_listed_failures(error: Exception | None = None) -> None:
    """Raise ``UserError`` with the failed jobs of the sweep that this process started, if any.

    ``error`` is the launcher's: submitit's or joblib's if a job's process ended without a result,
    so that its folder records no failure; any other, such as sbatch's, if no job could be started.
    """
    if _SWEEP.folder is None:
        return
    failures = [
        path.read_text(encoding="utf-8", errors="replace").splitlines()[0]
        for path in sorted(_SWEEP.folder.glob(f"*/{FAILURE_FILE}"))
        if path.stat().st_mtime >= _SWEEP.started - 1  # not from an earlier sweep
    ]
    messages = []
    if failures:
        messages.append(
            f"{len(failures)} of the sweep's jobs failed, and the same command runs these again: "
            + " | ".join(failures)
        )
    is_of_process = isinstance(getattr(error, "__cause__", None), CalledProcessError)
    is_of_job = type(error).__module__.split(".")[0] in ("submitit", "joblib")
    if error is not None and is_of_job and not is_of_process:
        messages.append(
            f"a job of the sweep was stopped or killed ({one_line(error)}); others may still run: "
            "when they have ended, the same command resumes the unfinished ones"
        )
    elif error is not None and not messages:
        messages.append(
            f"hydra/launcher={_SWEEP.launcher}: {one_line(error)}; fix it, or choose another "
            "launcher: hydra/launcher=basic runs the jobs here, one after another"
        )
    if messages:
        raise UserError("; ".join(messages))


def say_how_to_compare() -> None:
    """Print the command that compares the runs of the sweep that this process started, if any."""
    if _SWEEP.folder is not None:
        folder = os.path.relpath(_SWEEP.folder)
        print(f"all jobs have ended; python scripts/sweep_report.py dir={shlex.quote(folder)} "
              "compares them")  # fmt: skip
