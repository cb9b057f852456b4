"""Stopping in order: a signal asks for the end of the step, and the state is saved."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether the user asked for an end. The first SIGINT or SIGTERM only notes it; the next does
    what it did before, which is to stop at once."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[signal.Signals, Any] = {}

    @contextmanager
    def listening(self) -> Iterator[StopRequest]:
        """Take the signals for the length of a block; only a process's main thread can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        self._before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield self
        finally:
            self._restore()

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore()
        print(
            "\nfinishing the step and saving; once more stops at once", file=sys.stderr, flush=True
        )

    def _restore(self) -> None:
        while self._before:
            signal.signal(*self._before.popitem())
