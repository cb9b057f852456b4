"""Locks that let one process at a time work on a folder or a file."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from filmvqa.system import processes
from filmvqa.system.errors import UserError
from filmvqa.system.files import can_write, check_output
from filmvqa.system.lock_markers import HeldError, Holder, claim, release

if sys.platform != "win32":
    import fcntl

#: Errors that may mean that the folder cannot be written at all.
_READ_ONLY_ERRNOS = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
#: Errors of ``flock`` if another process holds the lock.
_HELD_ERRNOS = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EACCES})
#: Errors of ``flock`` where it does not work: not implemented (Lustre, some FUSE file systems), or
#: no lock daemon (NFS).
_NO_FLOCK_ERRNOS = frozenset(
    {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOTTY}
)


@contextmanager
def folder_lock(folder: str | Path, name: str = "", patience: float = 0.0) -> Iterator[None]:
    """Hold an exclusive lock on ``folder``, or on the file or folder ``name`` in it; wait for up to
    ``patience`` seconds while another process holds it.

    The lock is a ``flock`` of the file ``.lock`` or ``.<name>.lock`` in ``folder``, which names
    the process that holds it. The operating system releases it when the process ends, even if the
    process is killed. The file may belong to another user and be read-only.

    Where ``flock`` does not work, the lock is a second file, ``.lock.holder.lock``, that is created
    exclusively. If its process was killed, the next one on the same machine takes its place; on
    another machine the message names the file. Each of the two locks respects the other, as two
    machines may mount a file system with different options.

    A folder that cannot be written is not locked. Of the processes of a command that torchrun
    started, the first holds the lock for all.

    Raises
    ------
    UserError
        If another process holds the lock.
    OSError
        If the lock's file cannot be opened or locked; it is named.
    """
    if not processes.is_first():
        yield
        return
    target = Path(folder) / name
    path = Path(folder) / (f".{name}.lock" if name else ".lock")
    deadline = time.monotonic() + patience
    while True:
        try:
            unlock = _acquire(path)
            break
        except HeldError as error:
            if time.monotonic() >= deadline:
                raise UserError(f"{target}: {_advice(error)}") from None
            time.sleep(0.1)
    try:
        yield
    finally:
        unlock()


def file_lock(path: str | Path) -> AbstractContextManager[None]:
    """Hold an exclusive lock on one file that is to be written, as ``folder_lock`` on a folder.

    Raises ``UserError`` at once if the file cannot be written, so before the work for it is done.
    """
    if processes.is_first():
        check_output(path)
    return folder_lock(Path(path).parent, Path(path).name)


def _advice(error: HeldError) -> str:
    """The end of the message to a process that finds a lock held."""
    advice = (
        f"{error.holder or 'another process'} is using it; wait for it, stop it, or choose "
        "another path"
    )
    if error.is_certain:
        return advice
    return (
        f"{advice} (whether it still runs cannot be seen from here: if it has ended, move "
        f"{error.path} away)"
    )


def _acquire(path: Path) -> Callable[[], None]:
    """Lock ``path`` and return the function that unlocks it. Raises ``HeldError``."""
    holder = Holder.this_process()
    marker = path.with_name(f"{path.name}.holder.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = _open_and_flock(path)
        if descriptor is None:
            return _acquire_marker(marker, path, holder)
    except OSError as error:
        if error.errno in _READ_ONLY_ERRNOS and not can_write(path.parent):
            return lambda: None  # nothing can be written there, so there is nothing to protect
        raise

    def unlock() -> None:
        if os.getpid() == holder.process:  # not a forked child, which shares the lock
            with suppress(OSError):
                os.ftruncate(descriptor, 0)
            with suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)

    # On a full disk, and in another user's file, the lock works without the holder's name.
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, holder.text().encode(), 0)
    try:
        _respect(marker)
    except HeldError:
        unlock()
        raise
    return unlock


def _open_and_flock(path: Path) -> int | None:
    """The descriptor of the locked file ``path``; None where ``flock`` does not work."""
    if sys.platform == "win32":
        return None
    while True:
        descriptor = _open(path)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(descriptor)
            if error.errno in _HELD_ERRNOS:
                holder = Holder.read(path)
                if holder is not None and holder.runs() is False:
                    holder = None  # of an earlier lock, in a file that the holder cannot write
                raise HeldError(path, holder, is_certain=True) from None
            if error.errno in _NO_FLOCK_ERRNOS:
                return None
            if error.errno == errno.EBADF:
                raise UserError(
                    f"{path}: another user's, and a file system over the network locks only files "
                    "that you may write; give it write permission (chmod a+w), or choose another "
                    "path"
                ) from None
            raise OSError(error.errno, error.strerror, str(path)) from None
        if os.fstat(descriptor).st_nlink:
            return descriptor
        os.close(descriptor)  # removed in between: another process would lock another file


def _open(path: Path) -> int:
    """Open a lock's file, which is created if need be."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno not in _READ_ONLY_ERRNOS or not os.path.lexists(path):
            raise
        return os.open(path, os.O_RDONLY)  # another user's, which is enough for flock


def _acquire_marker(marker: Path, path: Path, holder: Holder) -> Callable[[], None]:
    """Lock by a marker, where ``flock`` does not work."""
    claim(marker, holder)

    def unlock() -> None:
        if os.getpid() == holder.process:
            release(marker, holder)

    try:
        _respect(path)
    except HeldError:
        unlock()
        raise
    return unlock


def _respect(path: Path) -> None:
    """Raise ``HeldError`` if a file names a process that holds the lock in the other way."""
    other = Holder.read(path)
    if other is not None and (runs := other.runs()) is not False:
        raise HeldError(path, other, is_certain=runs is True)
