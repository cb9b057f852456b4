"""Reading whole files, and writing files that appear whole or not at all."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from filmvqa.disk import NO_ROOM, disk_full_error
from filmvqa.errors import UserError


@contextmanager
def atomic_write(path: str | Path, size: int | None = None) -> Iterator[IO[bytes]]:
    """Open a binary file beside ``path`` and move it there when the block ends without error.

    The bytes are flushed to the disk before the move, so a crash leaves the old file or the
    new one, never a half. What a killed process left beside is written over; that two do not
    write at once is for ``folder_lock`` to see to.

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
            raise disk_full_error(path, size, error) from None
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
