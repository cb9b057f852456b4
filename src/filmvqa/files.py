"""Writing files so that they appear whole or not at all, one process at a time."""

from __future__ import annotations

import errno
import hashlib
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import IO

from filelock import FileLock, Timeout

from filmvqa.errors import UserError

#: Errors that mean that there is no room: the disk, the quota, the largest file that is allowed.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: Errors that mean that nothing can be written here at all.
_READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})


@contextmanager
def atomic_write(path: str | Path, size: int | None = None) -> Iterator[IO[bytes]]:
    """Open a binary file beside ``path`` and move it there when the block ends without error.

    The bytes are flushed to the disk before the move, so a crash leaves the old file or the
    new one, never a half. What a killed process left beside is written over; that two do not
    write at once is for ``exclusive`` to see to.

    Parameters
    ----------
    size
        Bytes that will be written, for the message if there is no room for them.

    Raises
    ------
    UserError
        If there is no room; what was at ``path`` is still there.
    """
    path = Path(path)
    beside = path.with_name(f".{path.name}.tmp")
    stream = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(beside, "w+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        if error.errno in NO_ROOM:
            raise no_room(path, size, error) from None
        raise
    finally:
        if stream is not None:
            beside.unlink(missing_ok=True)


def write_file(path: str | Path, content: bytes | memoryview | str) -> None:
    """Write a file of this content (text as UTF-8), whole or not at all."""
    content = content.encode() if isinstance(content, str) else content
    with atomic_write(path, len(content)) as stream:
        stream.write(content)


def sync_folder(folder: str | Path) -> None:
    """Flush a folder's entries, without which a file that was moved into it may not survive a
    power cut."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def no_room(path: str | Path, size: int | None, error: OSError | None = None) -> UserError:
    """The error that ``size`` bytes have no room at ``path``."""
    limit = error is not None and error.errno == errno.EFBIG
    reason = "a file may not grow so large here" if limit else "no room on the disk"
    needs = "" if size is None else f": it needs {in_units(size)}"
    have = f"{in_units(free_space(path))} are free"
    remedy = "raise the limit (ulimit -f)" if limit else "make room"
    return UserError(
        f"{path}: {reason}{needs}, {have}; {remedy} and run the same command again: what was "
        "written before is kept"
    )


def require_room(path: str | Path, size: int) -> None:
    """Raise ``UserError`` unless ``size`` bytes have room at ``path``, before work is spent on
    them."""
    if size > free_space(path):
        raise no_room(Path(path), size)


def free_space(path: str | Path) -> int:
    """Bytes that can still be written where ``path`` is or would be."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def in_units(size: float) -> str:
    """A number of bytes for people."""
    for unit in ("bytes", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"


@contextmanager
def exclusive(folder: str | Path, name: str = "") -> Iterator[None]:
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


def exclusive_file(path: str | Path) -> AbstractContextManager[None]:
    """Hold the place of one file alone, as ``exclusive`` does."""
    return exclusive(Path(path).parent, Path(path).name)


def refuse_overwriting(output: str | Path, *inputs: str | Path) -> None:
    """Raise ``UserError`` if ``output`` is one of the files, or lies in one of the folders, that
    are read."""
    target = Path(output).resolve()
    for each in inputs:
        source = Path(each).resolve()
        if target == source or (source.is_dir() and source in target.parents):
            raise UserError(
                f"{output}: would be written over what is read ({each}); choose another place"
            )


def read_bytes(path: str | Path, remedy: str) -> bytes:
    """The content of a file.

    Raises
    ------
    UserError
        If it is missing or cannot be read; ``remedy`` ends the message.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {remedy}") from None
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {remedy}") from None


def sha256_of_file(path: str | Path) -> str:
    """Hexadecimal SHA-256 of a file's content, read in blocks."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
