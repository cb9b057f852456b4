"""What the user can mend, what they stopped, what they should know."""

from __future__ import annotations

import sys


class UserError(Exception):
    """Bad input that its owner can mend: the message is one line with file, place and remedy.

    Scripts print the message on standard error and exit with status 1; nothing else in the
    package is allowed to end a run without a traceback.
    """


class OptionError(ValueError):
    """A bad name or value of a model's option. ``build_model`` turns it into a ``UserError``."""


class Interrupted(KeyboardInterrupt):
    """The user stopped it, and it has put its work in order; the message says how far it came."""


def one_line(error: BaseException, limit: int = 160) -> str:
    """What a library's error says, cut to ``limit`` characters, to quote in a ``UserError``."""
    return " ".join(str(error).split())[:limit] or type(error).__name__


def warn(message: str) -> None:
    """One line on standard error about what does not stop the work."""
    print(f"warning: {printable(message)}", file=sys.stderr, flush=True)


def printable(message: str) -> str:
    """A message as one line; what a broken file brought into it cannot steer the terminal."""
    line = " ".join(message.split())
    return "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
