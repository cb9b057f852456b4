"""Signals that ask for an end interrupt a program, and set its exit status."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from filmvqa.system.signals import ENDING
from tests.conftest import script_environment

_PROGRAM = """
import sys, time
from filmvqa.cli.messages import one_line_errors
from filmvqa.system.signals import interrupt_on_signals
interrupt_on_signals()
with one_line_errors():
    try:
        print("begun", flush=True)
        while len(sys.argv) > 1:
            time.sleep(0.1)
        time.sleep(1)
    finally:
        time.sleep(0.5)  # its end
        print("ended", flush=True)
"""


def start(*command: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        command, env=script_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "begun\n"
    return process


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_ends_a_program_with_one_line_and_its_status(number: signal.Signals) -> None:
    """Also if more signals arrive while the program ends."""
    process = start(sys.executable, "-c", _PROGRAM, "endless")
    process.send_signal(number)
    time.sleep(0.2)
    for other in ENDING[1:] if number != signal.SIGINT else ():
        process.send_signal(other)
    out, errors = process.communicate(timeout=60)
    assert process.returncode == 128 + number
    assert out == "ended\n"
    by = "" if number == signal.SIGINT else f" by {number.name}"
    assert errors == f"error: stopped{by}; run the same command again to resume\n"


_CALLED_BACK = """
import ctypes, signal, sys, time
from filmvqa.cli.messages import one_line_errors
from filmvqa.system.signals import interrupt_on_signals
interrupt_on_signals()

def called_from_c():
    signal.raise_signal(signal.SIGTERM)

class Destroyed:
    def __del__(self):
        called_from_c()

with one_line_errors():
    print("begun", flush=True)
    if sys.argv[1] == "callback":
        ctypes.CFUNCTYPE(None)(called_from_c)()
    else:
        Destroyed()
    time.sleep(30)
"""


@pytest.mark.parametrize("where", ["callback", "destructor"])
def test_a_signal_is_not_lost_where_python_cannot_raise(where: str) -> None:
    process = start(sys.executable, "-c", _CALLED_BACK, where)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 128 + signal.SIGTERM
    assert errors == "error: stopped by SIGTERM; run the same command again to resume\n"


def test_nohup_protects_a_program_from_sighup() -> None:
    process = start("nohup", sys.executable, "-c", _PROGRAM)
    process.send_signal(signal.SIGHUP)
    out, _ = process.communicate(timeout=60)
    assert (process.returncode, out) == (0, "ended\n")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="of Linux' terminals")
def test_a_closed_terminal_ends_no_program(tmp_path: Path) -> None:
    """Only what it prints afterwards is lost."""
    program = f"""
import os, pty, sys, time
pid, terminal = pty.fork()
if pid:
    os.read(terminal, 100)
    os.close(terminal)
    sys.exit(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
os.execv(sys.executable, [sys.executable, "-c", '''
import signal, sys, time, pathlib
signal.signal(signal.SIGHUP, signal.SIG_IGN)
import filmvqa.cli
print("begun", flush=True)
time.sleep(0.5)
print("out", flush=True)
print("error", file=sys.stderr, flush=True)
pathlib.Path({str(tmp_path / "done")!r}).touch()
'''])
"""
    done = subprocess.run(
        [sys.executable, "-c", program], env=script_environment(), check=False, timeout=60
    )
    assert done.returncode == 0
    assert (tmp_path / "done").exists()
