"""Signals that ask a program to end, and what every program does on them."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from filmvqa.system.errors import Interrupted

#: Ctrl-C, the end of a batch job, a closed terminal, what clusters send before a job's time ends,
#: and a spent limit of processor time; of these, those that the system has.
ENDING = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
)


def heeded() -> set[int]:
    """Those of ``ENDING`` that this program does not ignore, as it does SIGHUP under ``nohup``, and
    that no code outside of Python handles."""
    return {number for number in ENDING if signal.getsignal(number) not in (signal.SIG_IGN, None)}


def interrupt(number: int, frame: object) -> None:
    """The handler of a program's signals: interrupt it as Ctrl-C does.

    Those that follow do not disturb its end: a closed terminal may send several, and a spent limit
    of processor time sends one each second.
    """
    for other in ENDING:
        if signal.getsignal(other) is interrupt:
            signal.signal(other, signal.SIG_IGN)
    raise Interrupted(f"stopped by {signal.Signals(number).name}", number)


def interrupt_again(unraisable: Any) -> None:
    """The hook for exceptions that Python cannot raise: an interruption is asked for once more.

    A signal that comes while a library calls back into Python from C, as numba's compiler does, or
    during a destructor, would be lost otherwise, and with it all that follow.
    """
    lost = unraisable.exc_value
    if not isinstance(lost, Interrupted):
        sys.__unraisablehook__(unraisable)
        return
    signal.signal(lost.number, interrupt)
    main = threading.main_thread().ident
    assert main is not None
    # Not at once: the hook itself could not raise it either.
    threading.Timer(0.05, signal.pthread_kill, (main, lost.number)).start()


def interrupt_on_signals(*, also_ignored: bool = False) -> None:
    """Make all signals that ask this program to end interrupt it, except those that it was started
    to ignore, as ``nohup`` does with SIGHUP, unless these too should."""
    replaced = (signal.SIG_DFL, signal.SIG_IGN) if also_ignored else (signal.SIG_DFL,)
    for number in ENDING:
        if signal.getsignal(number) in replaced:
            signal.signal(number, interrupt)
    sys.unraisablehook = interrupt_again


@contextmanager
def signal_handlers(handlers: Mapping[int, Any]) -> Iterator[None]:
    """Handle signals, by number, otherwise within a block, as ``signal.signal`` does."""
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
