"""Reading files, and writing them atomically."""

from __future__ import annotations

import errno
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TypeAlias

from filmvqa.system.disk import DISK_FULL_ERRNOS, disk_full_error
from filmvqa.system.errors import UserError

Stamp: TypeAlias = tuple[int, int, int]
#: Names of hidden files, of files that systems and file managers create for themselves, and of
#: unfinished transfers.
_LITTER = re.compile(
    r"\..*|(eh)?thumbs\w*\.db|desktop\.ini|icon\r|__macosx|lost\+found|@eadir|\$recycle\.bin|"
    r"system volume information|.*(~|\.part|\.crdownload|\.tmp)",
    re.IGNORECASE | re.DOTALL,
)


def is_litter(name: str) -> bool:
    """Whether a file or folder with this name comes from a file manager, a notebook, the system or
    an unfinished transfer, and so is no part of a data set."""
    return _LITTER.fullmatch(name) is not None


@contextmanager
def atomic_write(path: str | Path, size: int | None = None) -> Iterator[IO[bytes]]:
    """Open a temporary binary file, and rename it to ``path`` if the block ends without an error.

    The bytes are flushed to the disk before the file is renamed, so a crash leaves either the old
    file or the new one. A temporary file that a killed process left is overwritten. Two processes
    must not write the same file at once: see ``folder_lock``.

    Parameters
    ----------
    size
        The number of bytes to write, for the message if the disk is full.

    Raises
    ------
    UserError
        If the disk is full; a file at ``path`` is then unchanged.
    """
    path = Path(path)
    temporary_path = path.with_name(f".{path.name}.tmp")
    stream = None
    try:
        with named_errors(path, size):
            path.parent.mkdir(parents=True, exist_ok=True)
            with open(temporary_path, "w+b") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            temporary_path.replace(path)
            sync_folder(path.parent)
    finally:
        if stream is not None:
            temporary_path.unlink(missing_ok=True)


@contextmanager
def named_errors(path: str | Path, size: int | None = None) -> Iterator[None]:
    """A block whose system errors name the file ``path`` if they name none, as errors of reads and
    writes.

    Raises
    ------
    UserError
        If the disk is full; ``size`` is the number of bytes to write, if known.
    """
    try:
        yield
    except OSError as error:
        if error.errno in DISK_FULL_ERRNOS:
            raise disk_full_error(path, size, error) from None
        if error.errno is not None and error.filename is None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def write_file(path: str | Path, content: bytes | memoryview | str) -> None:
    """Write ``content`` (text as UTF-8) to a file atomically."""
    content = content.encode() if isinstance(content, str) else content
    with atomic_write(path, len(content)) as stream:
        stream.write(content)


def sync_folder(folder: str | Path) -> None:
    """Flush a folder's entries to the disk: without this a power failure may lose a file that was
    renamed into the folder."""
    if os.name == "posix":
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def names_in(folder: str | Path) -> list[str]:
    """The sorted names of a folder's entries; none if there is no such folder.

    Unlike ``Path.glob``, it raises ``OSError`` for an unreadable folder, which may not be empty.
    """
    try:
        return sorted(path.name for path in Path(folder).iterdir())
    except FileNotFoundError:
        return []


def files_below(folder: str | Path, name: str) -> list[Path]:
    """The sorted files called ``name`` in a folder and below it; none if there is no such folder.

    Unlike ``Path.rglob``, it raises ``OSError`` for an unreadable folder.
    """

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    walk = os.walk(folder, onerror=refuse)
    return sorted(Path(parent) / name for parent, _, names in walk if name in names)


def stamp_of(path: str | Path) -> Stamp:
    """A file's or folder's inode, size and time of change, which tell whether it changed; zeros if
    there is none."""
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return 0, 0, 0
    return status.st_ino, status.st_size, status.st_mtime_ns


def is_up_to_date(target: str | Path, source: str | Path) -> bool:
    """Whether ``target`` exists and was written after ``source``."""
    target, source = Path(target), Path(source)
    return target.exists() and target.stat().st_mtime_ns >= source.stat().st_mtime_ns


def refuse_overwriting(output: str | Path, *inputs: str | Path) -> None:
    """Raise ``UserError`` if ``output`` is one of the input files or lies in an input folder."""
    target = Path(output).resolve()
    for input_path in inputs:
        source = Path(input_path).resolve()
        if target == source or (source.is_dir() and source in target.parents):
            raise UserError(
                f"{output}: would overwrite the input {input_path}; choose another output path"
            )


#: The remedy for a system error, by its number.
_REMEDIES = {
    errno.EAGAIN: "close it in the process that has it open",
    errno.ENOENT: "check the path",
    errno.EACCES: "change its permissions, or choose another path",
    errno.EPERM: "change its permissions, or choose another path",
    errno.EROFS: "choose a path that can be written",
    errno.ENOTDIR: "a folder is needed here, not a file; give another path",
    errno.EISDIR: "a file is needed here, not a folder; give another path",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.ENOMEM: "free some memory",
    **dict.fromkeys(
        (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP),
        "its file system has no locks: set HDF5_USE_FILE_LOCKING=FALSE",
    ),
}


def system_cause(number: int, words: str | None = None) -> str:
    """A system error, as ``words`` or the system's own, with its remedy. Such an error does not
    prove that a file's content is damaged."""
    remedy = _REMEDIES.get(number, "check its disk and the network")
    return f"{words or os.strerror(number)}; {remedy}, and run again"


def can_write(folder: str | Path) -> bool:
    """Whether files can be created in a folder, which need not exist yet."""
    return os.access(_nearest_existing(Path(folder)), os.W_OK | os.X_OK)


def check_output(path: str | Path) -> None:
    """Raise ``UserError`` if the file ``path`` cannot be written. Call it before long work.

    Nothing is created.
    """
    path = Path(path)
    folder = _nearest_existing(path.absolute().parent)
    if not folder.is_dir():
        raise UserError(f"{path}: {folder} is a file, not a folder; choose another path")
    if not can_write(folder):
        raise UserError(
            f"{path}: cannot be written; change the permissions of {folder}, or choose another path"
        )
    if path.is_dir():
        raise UserError(f"{path}: is a folder, not a file; choose another path")


def _nearest_existing(path: Path) -> Path:
    """``path``, or the nearest folder above it that exists."""
    path = path.absolute()
    for folder in (path, *path.parents):
        with suppress(OSError):  # inside a folder that cannot be searched
            if folder.exists():
                return folder
    return path


def read_bytes(path: str | Path, remedy: str) -> bytes:
    """The content of a file.

    Raises
    ------
    UserError
        If it is missing (then the message ends with ``remedy``), or cannot be read.
    """
    try:
        return Path(path).read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {remedy}") from None
    except OSError as error:
        raise UserError(f"{path}: {system_cause(error.errno or errno.EIO)}") from None


def sha256_of_file(path: str | Path) -> str:
    """The SHA-256 of a file's content in hexadecimal."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
