"""Locks that let one process at a time work on a folder or a file."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path

from filelock import SoftFileLock, Timeout, lock_descriptor, unlock_descriptor

from filmvqa.system import processes
from filmvqa.system.errors import UserError
from filmvqa.system.files import can_write, check_output, named_errors

#: The content of a lock's file while the marker is created.
_MARKING = b"marking\n"
#: Errors that may mean that nothing can be written to the folder.
_READ_ONLY_ERRNOS = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
#: Errors of ``flock`` where it does not work: not implemented (Lustre, some FUSE file systems), or
#: no lock daemon (NFS).
_NO_FLOCK_ERRNOS = frozenset(
    {errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL, errno.ENOTTY}
)


@contextmanager
def folder_lock(folder: str | Path, name: str = "", patience: float = 0.0) -> Iterator[None]:
    """Hold an exclusive lock on ``folder``, or on the file or folder ``name`` in it. Wait for up to
    ``patience`` seconds if another process holds it.

    The lock is a ``flock`` of the file ``.lock`` or ``.<name>.lock`` in ``folder``. The operating
    system releases it when the process ends, even if the process is killed. The file may belong to
    another user and be read-only.

    A second file, the marker ``.lock.holder``, is created exclusively and names the process that
    holds the lock. Where ``flock`` does not work, the marker is the lock. If its process was
    killed, the next process on the same machine takes the lock over; on another machine the message
    names the marker. Two machines that mount a file system with different options exclude each
    other by the marker.

    The lock's file says when the marker is being created: a process that is killed at that moment
    may leave an empty marker.

    A folder that cannot be written is not locked. If torchrun started several processes, the first
    holds the lock for all.

    Raises
    ------
    UserError
        If another process holds the lock.
    OSError
        If the lock's file, which the error names, cannot be opened or locked.
    """
    if not processes.is_first():
        yield
        return
    path = Path(folder) / (f".{name}.lock" if name else ".lock")
    deadline = time.monotonic() + patience
    with ExitStack() as held:
        while (advice := _acquire(path, held)) is not None:
            if time.monotonic() >= deadline:
                raise UserError(f"{Path(folder) / name}: {advice}")
            time.sleep(0.1)
        yield


def file_lock(path: str | Path) -> AbstractContextManager[None]:
    """Hold an exclusive lock on a file to be written, as ``folder_lock`` on a folder.

    Raises ``UserError`` at once, before any work, if the file cannot be written.
    """
    if processes.is_first():
        check_output(path)
    return folder_lock(Path(path).parent, Path(path).name)


def _acquire(path: Path, held: ExitStack) -> str | None:
    """Lock ``path`` until ``held`` is closed. Returns a message if another process holds it."""
    marker = path.with_name(f"{path.name}.holder")
    with ExitStack() as parts:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            descriptor = _open(path)
            parts.callback(os.close, descriptor)
            with named_errors(path):
                works, is_ours = _flock(path, descriptor)
            if not is_ours and works:
                return _advice(marker)
            if works:
                parts.callback(_unlock, descriptor, os.getpid())
                if not os.fstat(descriptor).st_nlink:  # deleted: the next process makes a new one
                    return _acquire(path, held)
                if (_content(marker) or _MARKING) == _content(path):
                    marker.unlink(missing_ok=True)  # of a killed process that held this lock
                _write(descriptor, _MARKING)
            try:
                _mark(marker, parts)
            except Timeout:
                if works:
                    _write(descriptor, b"")
                return f"{_advice(marker)} (if it has ended, move {marker} away)"
            except (OSError, UserError):  # a full disk is a UserError
                if not works:
                    raise
        except OSError as error:
            if error.errno in _READ_ONLY_ERRNOS and not can_write(path.parent):
                return None  # nothing can be written, so nothing needs protection
            raise
        if works:
            _write(descriptor, _content(marker))
        held.enter_context(parts.pop_all())
    return None


def _write(descriptor: int, content: bytes) -> None:
    """Write a lock's file, unless another user owns it or the disk is full."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, content, 0)


def _mark(marker: Path, parts: ExitStack) -> None:
    """Create the marker until ``parts`` is closed. Raises ``Timeout`` if it exists."""
    lock = SoftFileLock(marker, thread_local=False)
    with named_errors(marker):
        lock.acquire(blocking=False)
    parts.callback(lock.release)


def _flock(path: Path, descriptor: int) -> tuple[bool, bool]:
    """Whether ``flock`` works here, and whether this process acquired it."""
    try:
        return True, lock_descriptor(descriptor, blocking=False)
    except OSError as error:
        if error.errno == errno.EBADF:
            raise UserError(
                f"{path}: belongs to another user, and a network file system locks only files that "
                "you may write; give it write permission (chmod a+w), or choose another path"
            ) from None
        if error.errno not in _NO_FLOCK_ERRNOS:
            raise
        return False, False


def _unlock(descriptor: int, process: int) -> None:
    if os.getpid() == process:  # not in a forked child, which shares the lock
        with suppress(OSError):
            os.ftruncate(descriptor, 0)
        with suppress(OSError):
            unlock_descriptor(descriptor)


def _open(path: Path) -> int:
    """Open a lock's file, and create it if necessary."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        if error.errno not in _READ_ONLY_ERRNOS or not os.path.lexists(path):
            raise
        return os.open(path, os.O_RDONLY)  # another user's file; flock needs no more


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _advice(marker: Path) -> str:
    """The message for a lock that is held, with the process and the host that the marker names."""
    process, _, rest = _content(marker).decode(errors="replace").partition("\n")
    host = rest.partition("\n")[0].partition("?")[0]  # filelock appends a container's number
    holder = f"process {process} on {host}" if process.isdecimal() and host else "another process"
    return f"{holder} is using it; wait for it, stop it, or choose another path"
