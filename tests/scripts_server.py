"""Scripts run in processes forked from one that has imported torch, which saves seconds each time.

In all else a script runs as its user starts it: with its own process, current folder and
environment. What depends on the start itself (terminals, torchrun, launchers, the installed
programs) is tested with new processes: ``test_torchrun.py``, ``test_wheel.py``.
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

REPOSITORY = Path(__file__).resolve().parent.parent
_PRELOADED = "tests.preloaded"


@cache
def _server(environment: tuple[tuple[str, str], ...]) -> ForkServerContext:
    """The context whose processes are forked from a server with that environment, which libraries
    read when they are imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([_PRELOADED])
    before = dict(os.environ)
    try:
        os.environ.update(environment, PYTHONPATH=f"{REPOSITORY}:{REPOSITORY}/src")
        forkserver.ensure_running()
    finally:
        os.environ.clear()
        os.environ.update(before)
    return context


class ForkedScript:
    """A running script; used as a ``subprocess.Popen``.

    Scripts with the same ``environment`` share a server. ``more`` is added to the script's
    environment alone, too late for libraries that the server has imported.
    """

    def __init__(
        self,
        script: Path,
        arguments: Sequence[str],
        cwd: Path,
        environment: Mapping[str, str],
        more: Mapping[str, str] | None = None,
    ) -> None:
        context = _server(tuple(sorted(environment.items())))
        self.args = [str(script), *arguments]
        self._folder = tempfile.TemporaryDirectory()
        self._out, self._err = (Path(self._folder.name, name) for name in ("out", "err"))
        everything = {**environment, **(more or {})}
        self._process = context.Process(
            target=_become, args=(self.args, cwd, everything, self._out, self._err)
        )
        self._process.start()
        assert self._process.pid is not None
        self.pid: int = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        """The exit status; raises ``subprocess.TimeoutExpired`` after ``timeout`` seconds."""
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    def terminate(self) -> None:
        self._process.terminate()

    def communicate(self, timeout: float | None = None) -> tuple[str, str]:
        """The whole standard output and error, after ``wait``."""
        self.wait(timeout)
        if self._out.parent.exists():  # else this is not the first call
            self._printed = [
                path.read_text() if path.exists() else "" for path in (self._out, self._err)
            ]
            self._folder.cleanup()
        return self._printed[0], self._printed[1]


def run_forked(
    script: Path,
    arguments: Sequence[str],
    cwd: Path,
    environment: Mapping[str, str],
    timeout: float,
) -> subprocess.CompletedProcess[str]:
    """Run a script to its end. After ``timeout`` seconds it is killed, and
    ``subprocess.TimeoutExpired`` raised."""
    process = ForkedScript(script, arguments, cwd, environment)
    try:
        out, errors = process.communicate(timeout)
    except subprocess.TimeoutExpired as expired:
        process.kill()
        expired.output, expired.stderr = process.communicate()
        raise
    return subprocess.CompletedProcess(process.args, process.wait(), out, errors)


def _become(
    command: list[str], cwd: Path, environment: dict[str, str], out: Path, err: Path
) -> None:
    """Turn this process into a script's."""
    assert _PRELOADED in sys.modules  # multiprocessing ignores modules that cannot be imported
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
