"""Stopping on a signal: training finishes the step and saves the state."""

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

#: Signals that training handles even if the process ignored them.
_ALWAYS = (signal.SIGINT, signal.SIGTERM)


class StopRequest:
    """Whether a signal has asked the run to stop, and which one.

    The first signal only sets ``number``. Signals that the process was started to ignore, as
    ``nohup`` does with SIGHUP, stay ignored. Of later signals only SIGINT stops the process at
    once, unless the state is being saved: people press Ctrl-C a second time, whereas a closed
    terminal sends several signals, and an exceeded limit of CPU time sends one each second.

    The program that started the job may have its own handler, as submitit does, which queues the
    job again and ends the process. That handler is called once the state is saved
    (``interrupted``).
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
        """Handle signals within a block; does nothing outside the main thread."""
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
        """A block that writes the state; signals do not interrupt it."""
        self._is_saving = True
        try:
            yield
        finally:
            self._is_saving = False

    def interrupted(self, folder: Path, point: str) -> Interrupted:
        """The exception that all processes raise once the state is saved.

        ``point`` says how far the run came. A handler of the program that started the job is called
        first.
        """
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
            # The terminal may be closed, or the signal may have interrupted another print.
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
            # The request was answered: it must not interrupt the program a second time.
            is_done = self.requested and previous is interrupt
            signal.signal(number, signal.SIG_IGN if is_done else previous)
