"""Errors on one line."""

from __future__ import annotations

import errno
import os
import re
import select
import signal
import sys
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from hydra.errors import HydraException
from omegaconf.errors import MissingMandatoryValue, OmegaConfBaseException

from filmvqa.cli.torchrun import drawn_name
from filmvqa.settings.renamed_keys import RENAMED_KEYS
from filmvqa.system import processes
from filmvqa.system.disk import DISK_FULL_ERRNOS, disk_full_error
from filmvqa.system.errors import Interrupted, UserError, printable
from filmvqa.system.files import system_cause
from filmvqa.system.signals import ENDING

#: Errors caused by the user's input or machine. Any other exception is a bug of this project.
USER_ERRORS = (UserError, OSError, HydraException, OmegaConfBaseException)


@contextmanager
def one_line_errors() -> Iterator[None]:
    """A block in which a user error or an interruption prints one line on standard error and exits.
    If an error ends several processes, only the first that fails prints.

    With ``debug=true`` on the command line the traceback is printed first.
    """
    try:
        yield
    except (*USER_ERRORS, KeyboardInterrupt, RuntimeError) as error:
        if isinstance(error, RuntimeError) and not processes.is_lost_process(error):
            raise
        if isinstance(error, BrokenPipeError) and _reader_is_gone():
            sys.exit(128 + signal.SIGPIPE)
        if processes.count() > 1:  # torchrun interrupts all processes when one ends
            for number in ENDING[1:]:
                signal.signal(number, signal.SIG_IGN)
        # All processes but the first have redirected their standard error, but errors are printed.
        stream = (processes.are_several() and sys.__stderr__) or sys.stderr
        # A signal stops all processes, and may have ended torchrun, which knows who failed first.
        is_stopped = isinstance(error, Interrupted)
        if processes.is_first() if is_stopped else processes.is_first_to_fail():
            if "debug=true" in sys.argv:
                traceback.print_exc(file=stream)
            print(f"error: {explain(error)}", file=stream, flush=True)
        status = 1
        if isinstance(error, KeyboardInterrupt):  # the convention of shells
            status = 128 + getattr(error, "number", signal.SIGINT)
        if processes.count() > 1:
            processes.end(status)
        sys.exit(status)


def _reader_is_gone() -> bool:
    """Whether nobody reads standard output any more (``| head``). If so, redirect it to the null
    device, since the interpreter flushes it at its end."""
    try:
        output = sys.stdout.fileno()
    except (OSError, ValueError, AttributeError):
        return False
    poll = select.poll()
    poll.register(output, select.POLLOUT)
    if not any(events & select.POLLERR for _, events in poll.poll(0)):
        return False
    null_device = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null_device, output)
    os.close(null_device)
    return True


def explain(error: BaseException) -> str:
    """An error on one line with the file or key, the problem and the remedy. A remedy to run the
    same command again includes the name that the run got, if the command gives none."""
    again, name = "the same command again", drawn_name()
    return printable(_explain(error).replace(again, f"{again} with run={name}" if name else again))


def _explain(error: BaseException) -> str:
    if isinstance(error, KeyboardInterrupt):
        return f"{str(error) or 'stopped'}; run the same command again to resume"
    if processes.is_lost_process(error):
        return (
            f"another of the {processes.count()} processes has ended; run the same command again "
            "to resume"
        )
    if isinstance(error, OSError):
        if error.errno in DISK_FULL_ERRNOS:
            return str(disk_full_error(error.filename, None, error))
        cause = system_cause(error.errno or errno.EIO, error.strerror or str(error))
        return f"{error.filename or _raised_in(error)}: {cause}"
    if isinstance(error, MissingMandatoryValue):
        return f"{error.full_key}: must be given, as {error.full_key}=<value>"
    if isinstance(error, OmegaConfBaseException) and error.full_key:
        return f"{error.full_key}: {str(error.msg).splitlines()[0]}; correct it there"
    return str(error)


def _raised_in(error: BaseException) -> str:
    """The innermost function of this package in an error's traceback."""
    function = "filmvqa"
    for frame, _ in traceback.walk_tb(error.__traceback__):
        module = frame.f_globals.get("__name__", "")
        if module.partition(".")[0] == "filmvqa" and module != __name__:
            function = f"{module}.{frame.f_code.co_name}"
    return function


def refuse_renamed_overrides(arguments: Sequence[str]) -> None:
    """Raise ``UserError`` for a command-line override of a key that was renamed."""
    matches = (re.match(r"[+~]*([\w./@]+)", argument) for argument in arguments)
    refuse_renamed_keys(match[1] for match in matches if match)


def refuse_renamed_keys(keys: Iterable[str]) -> None:
    """Raise ``UserError`` for the first key, as a path with dots, that was renamed."""
    for key in keys:
        if key in RENAMED_KEYS:
            raise UserError(f"{key} is named {RENAMED_KEYS[key]} now; use that name")
