"""Running scripts one after another, as a user does."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from typing import Any

from filmvqa.cli.packed import packed_folder


def run_stage(command_lines: Sequence[str], remedy: str, limit: float | None = None) -> float:
    """Run the scripts of the command lines, such as ``train.py model=film``, in turn.

    A script that still runs ``limit`` seconds after the start of the stage is interrupted. After
    that, and after a script that fails, the program exits with a message that ends with ``remedy``.
    SIGTERM is passed on to the running script as SIGINT. Returns the duration in seconds.
    """
    started = time.monotonic()
    for command_line in command_lines:
        print(f"\n$ python scripts/{command_line}", flush=True)
        script, *arguments = command_line.split(" ")
        path = packed_folder("scripts") / script
        process = subprocess.Popen([sys.executable, str(path), *arguments])
        # The terminal sends Ctrl-C to the script too; SIGTERM reaches only this process.
        handlers: dict[int, Any] = {
            signal.SIGINT: signal.SIG_IGN,
            signal.SIGTERM: lambda *_, script=process: script.send_signal(signal.SIGINT),
        }
        previous_handlers = {
            number: signal.signal(number, handler) for number, handler in handlers.items()
        }
        try:
            exit_status = process.wait(
                None if limit is None else started + limit - time.monotonic()
            )
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGINT)
            process.wait()
            sys.exit(f"error: {script} has not ended after {limit:.0f} s; {remedy}")
        finally:
            for number, handler in previous_handlers.items():
                signal.signal(number, handler)
        if exit_status:
            sys.exit(f"error: {script} failed (see above); {remedy}")
    return time.monotonic() - started
