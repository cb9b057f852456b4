"""Stopping on a signal: training finishes the step and saves its state."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import Any

from filmvqa.system import processes
from filmvqa.system.errors import Interrupted
from filmvqa.system.signals import heeded, interrupt

#: Those that training handles whatever was done with them before.
_ALWAYS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether a signal has asked the run to stop, and which.

    Signals that ask for an end only set ``number``; what the process was started to ignore, as
    ``nohup`` does with SIGHUP, stays ignored. Of those that follow only SIGINT stops the process at
    once, and not while the state is being saved: people press Ctrl-C again, while a closed terminal
    sends several signals, and a spent limit of processor time one each second.

    A program that started the job may handle a signal, as submitit does: its handler queues the job
    again and ends this process, and is left to do so until the state is saved (``interrupted``).
    """

    def __init__(self) -> None:
        self.number: int | None = None
        self._is_saving = False
        self._unanswered: int | None = None
        self._previous_handlers: dict[int, Any] = {}

    @property
    def requested(self) -> bool:
        """Whether the run should stop."""
        return self.number is not None

    @contextmanager
    def handle_signals(self) -> Iterator[StopRequest]:
        """Handle the signals within a block; only the main thread of a process can."""
        if threading.current_thread() is not threading.main_thread():
            yield self
            return
        self._previous_handlers = {
            number: signal.signal(number, self._request_stop) for number in heeded().union(_ALWAYS)
        }
        try:
            yield self
        finally:
            self._restore_handlers()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """A block that writes the state, which no signal interrupts."""
        self._is_saving = True
        try:
            yield
        finally:
            self._is_saving = False

    def interrupted(self, folder: Path, point: str) -> Interrupted:
        """What to raise once the state is saved, as all processes do; ``point`` says how far the
        run came. If the program that started this one handles the signal, it does so first."""
        number = max(processes.gathered(self.number or 0))
        if self._unanswered is not None:
            self._restore_handlers()
            signal.raise_signal(self._unanswered)
        name = signal.Signals(number).name
        return Interrupted(f"{folder}: {name}: stopped after {point}, which is saved", number)

    def _request_stop(self, number: int, frame: FrameType | None) -> None:
        previous = self._previous_handlers.get(number)
        if number not in _ALWAYS and callable(previous) and previous is not interrupt:
            self._unanswered = number
        if self.number is None:
            self.number = number
            name = signal.Signals(number).name
            # The terminal may be gone, and a line of it may be half written.
            with suppress(OSError, RuntimeError):
                print(
                    f"\n{name}: finishing the step and saving; Ctrl-C stops at once",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
        elif number == signal.SIGINT and not self._is_saving:
            raise KeyboardInterrupt

    def _restore_handlers(self) -> None:
        while self._previous_handlers:
            number, previous = self._previous_handlers.popitem()
            # One request interrupts the program once.
            is_done = self.requested and previous is interrupt
            signal.signal(number, signal.SIG_IGN if is_done else previous)
