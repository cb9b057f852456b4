"""Errors as one line on standard error."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from filmvqa.disk import DISK_FULL_ERRNOS, disk_full_error
from filmvqa.errors import UserError, printable
from filmvqa.renamed_keys import RENAMED_KEYS

#: Errors of the user's input or machine; any other is a bug of this project.
USER_ERRORS = (UserError, OSError, HydraException, OmegaConfBaseException)
REMEDIES = {
    errno.EACCES: "change its permissions, or choose another place",
    errno.EPERM: "change its permissions, or choose another place",
    errno.EROFS: "choose a place that can be written",
    errno.ENOTDIR: "a folder is needed where a file is; move it away",
    errno.EISDIR: "a file is needed where a folder is; move it away",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


@contextmanager
def one_line_errors() -> Iterator[None]:
    """End the program with one line on standard error for an error of the user's or an
    interruption; with ``debug=true`` the traceback comes first."""
    try:
        yield
    except (*USER_ERRORS, KeyboardInterrupt) as error:
        if "debug=true" in sys.argv:
            traceback.print_exc()
        print(f"error: {explain(error)}", file=sys.stderr, flush=True)
        # 130 is the shells' exit status for Ctrl-C.
        sys.exit(130 if isinstance(error, KeyboardInterrupt) else 1)


def explain(error: BaseException) -> str:
    """The problem, the file or key, and the remedy, as one line."""
    if isinstance(error, KeyboardInterrupt):
        reason = str(error) or "stopped"
        return printable(f"{reason}; run the same command again to go on")
    if isinstance(error, OSError):
        if error.errno in DISK_FULL_ERRNOS:
            return printable(str(disk_full_error(error.filename or Path.cwd(), None, error)))
        remedy = REMEDIES.get(error.errno or 0, "see whether the disk and the network are well")
        path = f"{error.filename}: " if error.filename else ""
        return printable(f"{path}{error.strerror or error}; {remedy}")
    return printable(str(error))


def refuse_renamed_overrides(arguments: Sequence[str]) -> None:
    """Raise ``UserError`` for a command-line override of a key that has another name now."""
    for argument in arguments:
        key = re.match(r"[+~]*([\w./@]+)", argument)
        if key:
            refuse_renamed_keys([key[1]])


def refuse_renamed_keys(keys: Iterable[str]) -> None:
    """Raise ``UserError`` for the first key, joined with dots, that has another name now."""
    for key in keys:
        if key in RENAMED_KEYS:
            raise UserError(f"{key} is named {RENAMED_KEYS[key]} now; use that name")
