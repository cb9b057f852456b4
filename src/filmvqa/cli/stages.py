"""Run scripts one after another, as a user does."""

from __future__ import annotations

import os
import runpy
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from importlib import import_module
from multiprocessing.context import ForkProcess
from pathlib import Path
from typing import Any

from filmvqa.cli.packed import packed_folder
from filmvqa.system.cores import cores
from filmvqa.system.signals import heeded, signal_handlers

#: With more processes, each would have too small a part of a batch.
MAX_PROCESSES = 4


def count_training_processes() -> int:
    """The number of processes of a long training on this machine: one per GPU, else one per core,
    at most four."""
    import torch

    if torch.cuda.is_available():
        return max(1, torch.cuda.device_count())
    return min(cores(), MAX_PROCESSES)


class _ForkedScript(ForkProcess):
    """A script in a process forked from this one, which has already imported torch (2 s); used as a
    ``subprocess.Popen``.

    Not for programs that use GPUs themselves: CUDA does not survive a fork.
    """

    def __init__(self, path: Path, arguments: Sequence[str]) -> None:
        for name in ("filmvqa.cli.command", "torch"):  # the first sets what torch reads
            import_module(name)
        super().__init__(target=_become, args=(path, arguments))
        self.start()

    def send_signal(self, number: int) -> None:
        if self.exitcode is None:
            assert self.pid is not None
            os.kill(self.pid, number)

    def wait(self, timeout: float | None = None) -> int:
        self.join(timeout)
        if self.exitcode is None:
            raise subprocess.TimeoutExpired("script", timeout or 0.0)
        return self.exitcode


def _become(path: Path, arguments: Sequence[str]) -> None:
    """Turn this process into a script's."""
    sys.argv[:] = [str(path), *arguments]
    sys.path.insert(0, str(path.parent))  # as Python does
    runpy.run_path(str(path), run_name="__main__")


def run_stage(
    command_lines: Sequence[str],
    remedy: str,
    limit: float | None = None,
    processes: int = 1,
    *,
    forked: bool = False,
) -> float:
    """Run the scripts of the command lines, such as ``train.py model=film``, one after another.

    ``train.py`` runs as ``processes`` processes. With ``forked`` every script is a fork of this
    process where the system supports it.

    A script that still runs ``limit`` seconds after the start of the stage is interrupted. Then, or
    if a script fails, the program exits with a message that ends with ``remedy``. Signals that ask
    for an end are forwarded to the running script, whose exit status becomes the program's. Returns
    the duration in seconds.
    """
    started = time.monotonic()
    for command_line in command_lines:
        script, *arguments = shlex.split(command_line)
        program, launcher, environment = "python", [sys.executable], dict(os.environ)
        if script == "train.py" and processes > 1:
            options = f"--nproc_per_node={processes}"
            program = f"torchrun {options}"
            launcher += ["-m", "filmvqa.cli.quiet_torchrun", "--standalone", options]
            # torchrun's own default, of which it warns on eight lines.
            environment.setdefault("OMP_NUM_THREADS", "1")
            if signal.SIGHUP not in heeded():  # torchrun ignores nohup
                environment.setdefault("TORCHELASTIC_SIGNALS_TO_HANDLE", "SIGTERM,SIGINT,SIGQUIT")
        print(f"\n$ {program} scripts/{command_line}", flush=True)
        path = packed_folder("scripts") / script
        process: subprocess.Popen[bytes] | _ForkedScript
        if forked and sys.platform == "linux":
            process = _ForkedScript(path, arguments)
        else:
            process = subprocess.Popen([*launcher, str(path), *arguments], env=environment)
        # The terminal sends Ctrl-C to the script too; other signals may reach only this process.
        handlers: dict[int, Any] = {
            number: lambda number, _, script=process: script.send_signal(number)
            for number in heeded()
        }
        with signal_handlers({**handlers, signal.SIGINT: signal.SIG_IGN}):
            try:
                exit_status = process.wait(
                    None if limit is None else started + limit - time.monotonic()
                )
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGINT)
                process.wait()
                sys.exit(f"error: {script} has not ended after {limit:.0f} s; {remedy}")
        if exit_status:
            status = 128 - exit_status if exit_status < 0 else exit_status
            outcome = "was stopped" if status > 128 else "failed"
            print(f"error: {script} {outcome} (see above); {remedy}", file=sys.stderr)
            sys.exit(status)
    return time.monotonic() - started
