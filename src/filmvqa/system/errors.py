"""Errors that the user can correct, interruptions, and warnings."""

from __future__ import annotations

import signal
import sys


class UserError(Exception):
    """An error that the user can correct.

    The message is one line that names the file or the key, the problem and the remedy. Scripts
    print it on standard error and exit with status 1, without a traceback.
    """


class OptionError(ValueError):
    """A bad name or value of a model's option. ``build_model`` turns it into a ``UserError``."""


class Interrupted(KeyboardInterrupt):
    """A signal stopped the work. The message names it, and the step that was saved.

    Attributes
    ----------
    number
        The signal's number.
    """

    def __init__(self, message: str, number: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.number = number


def one_line(error: BaseException, limit: int = 160) -> str:
    """A library's error message on one line of at most ``limit`` characters, to quote in a
    ``UserError``."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def warn(message: str) -> None:
    """Print a one-line warning on standard error."""
    print(f"warning: {printable(message)}", file=sys.stderr, flush=True)


def printable(message: str) -> str:
    """A message on one line, in which control characters (from a broken file) are replaced."""
    line = " ".join(message.split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
