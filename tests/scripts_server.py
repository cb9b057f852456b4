"""Scripts run in processes forked from one that has imported torch, which takes seconds each time.

Otherwise a script runs as its user starts it: in a process, a current folder and with an environment
of its own. What depends on the start itself (signals, terminals, the installed programs) is tested
with processes that start from nothing: ``test_kills.py``, ``test_wheel.py``.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

#: Imported by the server, in this order: the first sets what the others read.
_IMPORTED = ["filmvqa.cli.command", "torch._dynamo", "h5py", "matplotlib.figure", "numba"]


@cache
def _server(environment: tuple[tuple[str, str], ...]) -> ForkServerContext:
    """The context whose processes are forked from the server, which is started with that
    environment: libraries read theirs when they are imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    before = dict(os.environ)
    try:
        os.environ.update(environment)
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


def run_forked(
    script: Path,
    arguments: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    timeout: float,
) -> subprocess.CompletedProcess[str]:
    """Run a script to its end; one that takes longer than ``timeout`` seconds is killed.

    ``environment`` must be the same in every call.

    Raises
    ------
    subprocess.TimeoutExpired
    """
    context = _server(tuple(sorted(environment.items())))
    command = [str(script), *arguments]
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        process = context.Process(target=_become, args=(command, cwd, dict(environment), out, err))
        process.start()
        process.join(timeout)
        if process.exitcode is None:
            process.kill()
            process.join()
            raise subprocess.TimeoutExpired(command, timeout, out.read_text(), err.read_text())
        return subprocess.CompletedProcess(
            command, process.exitcode, out.read_text(), err.read_text()
        )


def _become(
    command: list[str], cwd: Path, environment: dict[str, str], out: Path, err: Path
) -> None:
    """Turn this process into a script's."""
    for path, stream in ((os.devnull, 0), (out, 1), (err, 2)):
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT)
        os.dup2(descriptor, stream)
        os.close(descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv[:] = command
    sys.path.insert(0, str(Path(command[0]).parent))  # as Python does
    runpy.run_path(command[0], run_name="__main__")
