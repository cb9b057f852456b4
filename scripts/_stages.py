"""Running other scripts one after another, as a user would."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def run_stage(lines: Sequence[str], remedy: str, limit: float | None = None) -> float:
    """Run ``scripts/<line>`` for each line; returns the seconds that it took.

    With a ``limit`` in seconds, what is not done by then is interrupted, and the program ends with
    ``remedy``, as it does after an error.
    """
    started = time.monotonic()
    for line in lines:
        print(f"\n$ python scripts/{line}", flush=True)
        script, *arguments = line.split(" ")
        path = Path(__file__).with_name(script)
        process = subprocess.Popen([sys.executable, str(path), *arguments])
        try:
            code = process.wait(None if limit is None else started + limit - time.monotonic())
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait()
            sys.exit(f"error: {script} is not done after {limit:.0f} s; {remedy}")
        if code:
            sys.exit(f"error: {script} failed (above); {remedy}")
    return time.monotonic() - started
