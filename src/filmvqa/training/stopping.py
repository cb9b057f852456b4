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
#: What a cluster sends before a job's time ends; not on Windows.
WARNINGS = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))


class StopRequest:
    """Whether the user, or a cluster on which the time of a job ends, has asked the run to stop.

    The first SIGINT or SIGTERM only sets ``requested``. It restores the previous handlers of both,
    so the next one stops the process at once.

    So does a warning of a cluster, if the program that started the job handles it, as submitit
    does: its handler queues the job again and ends this process, and is left to do so until the
    state is saved (``answer_warning``).
    """

    def __init__(self) -> None:
        self.requested = False
        self._warning: int | None = None
        self._previous_handlers: dict[int, Any] = {}

    @contextmanager
    def handle_signals(self) -> Iterator[StopRequest]:
        """Handle the signals within a block; only the main thread of a process can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        handled = [number for number in WARNINGS if callable(signal.getsignal(number))]
        self._previous_handlers = {
            number: signal.signal(number, self._request_stop) for number in (*SIGNALS, *handled)
        }
        try:
            yield self
        finally:
            self._restore_handlers(*self._previous_handlers)

    def answer_warning(self) -> None:
        """If a cluster's warning asked for the stop, call the handler that was there before."""
        if self._warning is not None:
            self._restore_handlers(*self._previous_handlers)
            signal.raise_signal(self._warning)

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        self.requested = True
        if number in WARNINGS:
            self._warning = number
            text = "the job's time ends: finishing the step and saving"
        else:
            self._restore_handlers(*SIGNALS)
            text = "finishing the step and saving; a second signal stops at once"
        print(f"\n{text}", file=sys.stderr, flush=True)

    def _restore_handlers(self, *numbers: int) -> None:
        for number in numbers:
            if number in self._previous_handlers:
                signal.signal(number, self._previous_handlers.pop(number))
