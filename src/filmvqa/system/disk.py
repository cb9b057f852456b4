"""Free disk space, and the error when there is too little."""

from __future__ import annotations

import errno
import os
import shutil
from contextlib import suppress
from pathlib import Path

from filmvqa.system.errors import UserError

#: Errors of a write for lack of space: a full disk, a quota, or the limit on a file's size.
DISK_FULL_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
#: Linux's shared memory, which holds locks of worker processes.
_SHARED_MEMORY = Path("/dev/shm")
#: A disk with less free space than this is full: a file system may reserve some.
_FULL_BYTES = 2**20


def disk_full_error(
    path: str | Path | None, size: int | None, error: OSError | None = None
) -> UserError:
    """The error for a file that does not fit on the disk.

    Parameters
    ----------
    path
        The file to write. If the system did not name it (None), the error names the full folder
        among those in which programs create files without a name.
    size
        The file's size in bytes; None if unknown.
    error
        The error of the write, which distinguishes a full disk from the limit on a file's size;
        None for a full disk.
    """
    exceeds_file_limit = error is not None and error.errno == errno.EFBIG
    if exceeds_file_limit:
        reason, remedy = "larger than a file may be here", "raise the limit (ulimit -f)"
    else:
        reason, remedy = "no room on the disk", "make room"
    if path is None and not exceeds_file_limit:
        path = full_folder()
    if path is None:
        place = "a file" if exceeds_file_limit else "a disk (see df -h)"
        return UserError(f"{place}: {reason}; {remedy} and run the same command again")
    if Path(path) == _SHARED_MEMORY:
        remedy = "make room there (for a container: --shm-size)"
    required = "" if size is None else f": it needs {format_bytes(size)}"
    available = f"{format_bytes(free_space(path))} are free"
    return UserError(
        f"{path}: {reason}{required}, {available}; {remedy} and run the same command again: "
        "finished files are kept"
    )


def full_folder() -> Path | None:
    """The first full folder among those of temporary files and of shared memory and the current
    one; None if none is full."""
    for name in (os.environ.get("TMPDIR", "/tmp"), _SHARED_MEMORY, "."):
        with suppress(OSError):
            if shutil.disk_usage(name).free < _FULL_BYTES:
                return Path(name).absolute()
    return None


def check_disk_space(path: str | Path, size: int) -> None:
    """Raise ``UserError`` if ``size`` bytes do not fit on the disk of ``path``. Call it before the
    work that produces them."""
    if size > free_space(path):
        raise disk_full_error(Path(path), size)


def free_space(path: str | Path) -> int:
    """Free bytes on the disk of ``path``, which need not exist yet."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def format_bytes(size: float) -> str:
    """A number of bytes with a binary unit, such as ``1.5 MiB``."""
    for unit in ("bytes", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
