"""The one exception that means "the user can mend this"."""

from __future__ import annotations


class UserError(Exception):
    """Bad input that its owner can mend: the message is one line with file, place and remedy.

    Scripts print the message on standard error and exit with status 1; nothing else in the
    package is allowed to end a run without a traceback.
    """


def one_line(error: Exception, limit: int = 160) -> str:
    """What a library's error says, cut to ``limit`` characters, to quote in a ``UserError``."""
    return " ".join(str(error).split())[:limit] or type(error).__name__
