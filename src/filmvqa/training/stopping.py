"""Stopping on a signal: training finishes the step and saves its state."""

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
    """Whether the user has asked the run to stop.

    The first SIGINT or SIGTERM only sets ``requested``. It restores the previous signal handlers,
    so the next signal stops the process at once.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous_handlers: dict[signal.Signals, Any] = {}

    @contextmanager
    def handle_signals(self) -> Iterator[StopRequest]:
        """Handle the signals within a block; only the main thread of a process can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        self._previous_handlers = {
            number: signal.signal(number, self._request_stop) for number in SIGNALS
        }
        try:
            yield self
        finally:
            self._restore_handlers()

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        self._restore_handlers()
        print(
            "\nfinishing the step and saving; a second signal stops at once",
            file=sys.stderr,
            flush=True,
        )

    def _restore_handlers(self) -> None:
        while self._previous_handlers:
            signal.signal(*self._previous_handlers.popitem())
