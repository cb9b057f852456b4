"""Errors as one line on standard error."""

from __future__ import annotations

import errno
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from hydra.errors import HydraException
from omegaconf.errors import OmegaConfBaseException

from filmvqa.disk import NO_ROOM, disk_full_error
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
        if error.errno in NO_ROOM:
            return printable(str(disk_full_error(error.filename or Path.cwd(), None, error)))
        remedy = REMEDIES.get(error.errno or 0, "see whether the disk and the network are well")
        path = f"{error.filename}: " if error.filename else ""
        return printable(f"{path}{error.strerror or error}; {remedy}")
    return printable(str(error))


def refuse_renamed_keys(arguments: Sequence[str]) -> None:
    """Raise ``UserError`` for a command-line override of a key that has another name now."""
    for argument in arguments:
        key = re.match(r"[+~]*([\w./@]+)", argument)
        if key and key[1] in RENAMED_KEYS and "=" in argument:
            raise UserError(f"{key[1]} is named {RENAMED_KEYS[key[1]]} now; use that name")


def name_renamed_key(error: BaseException) -> BaseException:
    """For Hydra's error about an unknown key, which a config file of the user's may have: an error
    that gives the present name where it is an earlier one; any other error as it is."""
    chain = [error, error.__cause__, error.__context__]
    text = " ".join(str(each) for each in chain if each is not None)
    for earlier, current in RENAMED_KEYS.items():
        group, _, key = earlier.rpartition(".")
        if re.search(rf"Key '{re.escape(key)}' (is )?not in .*\b{re.escape(group)}\b", text, re.S):
            return UserError(f"{earlier} is named {current} now; use that name")
    return error
