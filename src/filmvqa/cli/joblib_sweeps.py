"""Signals to a sweep whose jobs run in joblib's processes: all jobs save before the sweep ends.

joblib kills its processes as soon as an exception reaches it, so none may before all jobs have
returned. The sweep's process signals the others, their jobs save and return, and jobs that have not
started return at once.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import active_children, current_process
from pathlib import Path
from typing import Any, TypeVar

from filmvqa.system.errors import Interrupted
from filmvqa.system.signals import heeded

T = TypeVar("T")


@dataclass
class _Stop:
    """The signal that this process received, and whether it is running a job."""

    number: int | None = None
    has_job: bool = False


_STOP = _Stop()


def stop_jobs_on_signals() -> None:
    """Make signals to this process, which starts a sweep with joblib, stop the sweep's jobs."""
    _handle_signals(_stop_jobs)


def raise_if_stopped() -> None:
    """Raise ``Interrupted`` if a signal made a sweep's jobs return."""
    if _STOP.number is not None:
        name = signal.Signals(_STOP.number).name
        raise Interrupted(f"the sweep and its jobs were stopped by {name}", _STOP.number)


def do_unless_stopped(job: Callable[[], T]) -> T | None:
    """The result of a job; None if a signal stopped this process of joblib before or during it."""
    if not current_process().name.startswith("Loky"):
        return job()
    _handle_signals(_stop_job)
    if _STOP.number is not None:
        return None
    _STOP.has_job = True
    try:
        return job()
    except KeyboardInterrupt as error:
        _STOP.number = getattr(error, "number", signal.SIGINT)
        print(error, flush=True)
        return None
    finally:
        _STOP.has_job = False


def _handle_signals(handler: Any) -> None:
    for number in heeded():
        signal.signal(number, handler)


def _stop_job(number: int, frame: object) -> None:
    if _STOP.number is None:
        _STOP.number = number
        if _STOP.has_job:
            raise Interrupted(f"stopped by {signal.Signals(number).name}", number)


def _stop_jobs(number: int, frame: object) -> None:
    if _STOP.number is None:
        _STOP.number = number
        threading.Thread(target=_signal_jobs, daemon=True).start()
        with suppress(OSError, RuntimeError):
            name = signal.Signals(number).name
            print(f"\n{name}: the jobs finish a step and save", file=sys.stderr, flush=True)
    elif number == signal.SIGINT:
        raise KeyboardInterrupt


def _signal_jobs() -> None:
    """Send SIGTERM to joblib's processes, repeatedly, since one may still be starting."""
    while True:
        for process in active_children():
            with suppress(OSError):
                if process.pid is not None and _handles_sigterm(process.pid):
                    os.kill(process.pid, signal.SIGTERM)
        time.sleep(1)


def _handles_sigterm(process: int) -> bool:
    """Whether a process handles SIGTERM, by Linux's /proc; True on other systems."""
    path = Path(f"/proc/{process}/status")
    if not path.exists():
        return not Path("/proc/self/status").exists()
    (caught,) = (line for line in path.read_text().splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught.split()[1], 16) >> (signal.SIGTERM - 1) & 1)
