"""Signals that ask a program to end, and their handlers."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from filmvqa.system.errors import Interrupted

#: Ctrl-C, the end of a batch job, a closed terminal, a cluster's warnings before a job's time ends,
#: and a spent limit of processor time; only those that the system has.
ENDING = tuple(
    getattr(signal, name)
    for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2", "SIGXCPU")
    if hasattr(signal, name)
)


def heeded() -> set[int]:
    """The signals of ``ENDING`` that this program does not ignore (as SIGHUP under ``nohup``), and
    that no code outside of Python handles."""
    return {number for number in ENDING if signal.getsignal(number) not in (signal.SIG_IGN, None)}


def interrupt(number: int, frame: object) -> None:
    """Handle a signal: interrupt the program as Ctrl-C does.

    Later signals are ignored while the program ends: a closed terminal may send several, and a
    spent limit of processor time sends one each second.
    """
    for other in ENDING:
        if signal.getsignal(other) is interrupt:
            signal.signal(other, signal.SIG_IGN)
    raise Interrupted(f"stopped by {signal.Signals(number).name}", number)


def interrupt_again(unraisable: Any) -> None:
    """Send an interruption's signal again where Python could not raise the exception.

    Otherwise a signal that arrives in a destructor, or while a library calls Python from C (as
    numba's compiler does), would be lost, and all later ones too, since they are ignored.
    """
    lost = unraisable.exc_value
    if not isinstance(lost, Interrupted):
        sys.__unraisablehook__(unraisable)
        return
    signal.signal(lost.number, interrupt)
    main = threading.main_thread().ident
    assert main is not None
    # Not at once: the hook cannot raise it either.
    threading.Timer(0.05, signal.pthread_kill, (main, lost.number)).start()


def interrupt_on_signals(*, also_ignored: bool = False) -> None:
    """Make the signals of ``ENDING`` interrupt this program. Signals that its parent had it ignore,
    such as SIGHUP under ``nohup``, stay ignored unless ``also_ignored``."""
    replaced = (signal.SIG_DFL, signal.SIG_IGN) if also_ignored else (signal.SIG_DFL,)
    for number in ENDING:
        if signal.getsignal(number) in replaced:
            signal.signal(number, interrupt)
    sys.unraisablehook = interrupt_again


@contextmanager
def signal_handlers(handlers: Mapping[int, Any]) -> Iterator[None]:
    """A block in which signals, by number, have other handlers."""
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
