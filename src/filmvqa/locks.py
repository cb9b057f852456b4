"""Locks that let one process at a time work on a folder or a file."""

from __future__ import annotations

import errno
import os
import platform
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from filmvqa.errors import UserError

#: Errors that mean that the folder cannot be written at all.
_READ_ONLY_ERRNOS = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


@contextmanager
def folder_lock(folder: str | Path, name: str = "") -> Iterator[None]:
    """Hold an exclusive lock on ``folder``, or on the file or folder ``name`` in it.

    The lock is on the file ``.lock`` or ``.<name>.lock`` in ``folder``, which names the process
    that holds it. The operating system releases the lock when the process ends, even if the
    process is killed. A folder that cannot be written is not locked.

    Raises
    ------
    UserError
        If another process holds the lock.
    """
    folder = Path(folder)
    lock_path = folder / (f".{name}.lock" if name else ".lock")
    lock = FileLock(lock_path, timeout=0)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        holder = lock_path.read_text(errors="replace").strip() or "another process"
        raise UserError(
            f"{folder / name}: {holder} is using it; wait for it, stop it, or choose another path"
        ) from None
    except OSError as error:
        if error.errno not in _READ_ONLY_ERRNOS:
            raise
        yield  # nothing can be written there, so there is nothing to protect
        return
    try:
        with suppress(OSError):  # on a full disk the lock works without the holder's name
            lock_path.write_text(f"process {os.getpid()} on {platform.node()}\n")
        yield
    finally:
        lock.release()


def file_lock(path: str | Path) -> AbstractContextManager[None]:
    """Hold an exclusive lock on one file, as ``folder_lock`` does on a folder."""
    return folder_lock(Path(path).parent, Path(path).name)
