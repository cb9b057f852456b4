"""A program that torchrun starts as several processes: they connect, and only the first prints."""

from __future__ import annotations

import os
import re
import signal
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

from filmvqa.cli.process import end_with_parent
from filmvqa.system import processes
from filmvqa.system.errors import UserError
from filmvqa.system.signals import ENDING, interrupt_on_signals, signal_handlers


@dataclass
class _Start:
    """The start of the program, equal in all its processes, and the run's name from it."""

    time: datetime = field(default_factory=datetime.now)
    name: str | None = None


_START = _Start()


def format_start(pattern: str) -> str:
    """The start of the program in ``strftime``'s format: the same in all its processes, and in
    those that torchrun starts in their place."""
    _START.name = _START.time.strftime(pattern)
    return _START.name


def drawn_name() -> str | None:
    """The run's name if it is the time of the start; the same command alone would not find its
    folder again."""
    if not HydraConfig.initialized() or _START.name is None:
        return None
    runtime = HydraConfig.get().runtime
    # As in the process that starts a sweep, and where a configuration is only composed.
    if OmegaConf.is_missing(runtime, "output_dir"):
        return None
    return _START.name if _START.name in runtime.output_dir else None


def take_local_rank() -> None:
    """Replace the argument ``--local-rank=<n>`` of ``torch.distributed.launch`` and DeepSpeed by
    the environment variable that torchrun sets."""
    for argument in [*sys.argv[1:]]:
        if match := re.fullmatch(r"--local[-_]rank=(\d+)", argument):
            os.environ.setdefault("LOCAL_RANK", match[1])
            sys.argv.remove(argument)


@contextmanager
def join_processes(name: str, *, by_several: bool) -> Iterator[None]:
    """A block in which the program's processes are connected, and all but the first are silent.

    Raises
    ------
    UserError
        If torchrun started several processes of a program that runs as one.
    """
    if not processes.are_several():
        yield
        return
    if not by_several:
        if os.environ["RANK"] != "0":
            with suppress(KeyboardInterrupt):
                signal.pause()  # until torchrun ends it, after the first has printed the error
            sys.exit(1)
        raise UserError(f"{name}: runs as one process; start it without torchrun")
    end_with_parent()  # torchrun may be killed
    interrupt_on_signals(also_ignored=True)  # torchrun forwards SIGHUP, also under nohup
    with ExitStack() as silence:
        if os.environ["RANK"] != "0":
            null_device = silence.enter_context(open(os.devnull, "w"))
            silence.enter_context(redirect_stdout(null_device))
            silence.enter_context(redirect_stderr(null_device))
        # torch waits in C++ for the other processes, which may never start; handlers in Python
        # would not interrupt it.
        with signal_handlers(dict.fromkeys(ENDING, signal.SIG_DFL)):
            processes.join()
        _START.time = processes.from_first(_start_of_parent())
        yield
    processes.end_together()  # not after an error: the others may be lost


def _start_of_parent() -> datetime:
    """The time when torchrun started, from Linux's /proc; elsewhere the present time."""
    try:
        status = Path(f"/proc/{os.getppid()}/stat").read_text().rpartition(")")[2].split()
        lines = Path("/proc/stat").read_text().splitlines()
        boot = next(int(line.split()[1]) for line in lines if line.startswith("btime"))
        return datetime.fromtimestamp(boot + int(status[19]) / os.sysconf("SC_CLK_TCK"))
    except (OSError, StopIteration, ValueError, IndexError):
        return datetime.now()
