"""Running scripts one after another, as a user would."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from filmvqa.cli.packed import packed_folder


def run_stage(lines: Sequence[str], remedy: str, limit: float | None = None) -> float:
    """Run ``scripts/<line>`` for each line; returns the seconds that it took.

    After ``limit`` seconds the running script is interrupted, and the program ends with
    ``remedy``, as it does after an error. Signals that end the program are passed on to the script.
    """
    started = time.monotonic()
    for line in lines:
        print(f"\n$ python scripts/{line}", flush=True)
        script, *arguments = line.split(" ")
        path = packed_folder("scripts") / script
        process = subprocess.Popen([sys.executable, str(path), *arguments])
        # Ctrl-C reaches the script from the terminal; other signals reach only this process.
        handlers: dict[int, Any] = {
            signal.SIGINT: signal.SIG_IGN,
            signal.SIGTERM: lambda *_, to=process: to.send_signal(signal.SIGINT),
        }
        before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        try:
            code = process.wait(None if limit is None else started + limit - time.monotonic())
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait()
            sys.exit(f"error: {script} is not done after {limit:.0f} s; {remedy}")
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if code:
            sys.exit(f"error: {script} ended early (above); {remedy}")
    return time.monotonic() - started
