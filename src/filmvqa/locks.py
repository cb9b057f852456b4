"""Locks of folders and files: one process at a time works on them."""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from filmvqa.errors import UserError

#: Errors that mean that nothing can be written here at all.
_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


@contextmanager
def folder_lock(folder: str | Path, name: str = "") -> Iterator[None]:
    """Hold ``folder``, or what is called ``name`` in it, alone: ``.lock`` or ``.<name>.lock`` is
    locked, and says by whom; the system unlocks it when the process ends, however it ends.

    Raises
    ------
    UserError
        If another process holds it.
    """
    folder = Path(folder)
    place = folder / (f".{name}.lock" if name else ".lock")
    lock = FileLock(place, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        holder = place.read_text(errors="replace").strip() or "another process"
        raise UserError(
            f"{folder / name}: {holder} is at work on it; wait for it, stop it, or choose "
            "another place"
        ) from None
    except OSError as error:
        if error.errno not in _READ_ONLY:
            raise
        yield  # nothing can be written there anyway
        return
    try:
        with suppress(OSError):  # a full disk: the lock holds without its holder's name
            place.write_text(f"process {os.getpid()} on {platform.node()}\n")
        yield
    finally:
        lock.release()


def file_lock(path: str | Path) -> AbstractContextManager[None]:
    """Hold the place of one file alone, as ``folder_lock`` does."""
    return folder_lock(Path(path).parent, Path(path).name)
