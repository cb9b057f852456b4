"""Room on the disk: how much there is, and what to say where it does not suffice."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from filmvqa.errors import UserError

#: Errors that mean that there is no room: the disk, the quota, the largest file that is allowed.
NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def disk_full_error(path: str | Path, size: int | None, error: OSError | None = None) -> UserError:
    """The error that ``size`` bytes have no room at ``path``."""
    limit = error is not None and error.errno == errno.EFBIG
    reason = "a file may not grow so large here" if limit else "no room on the disk"
    needs = "" if size is None else f": it needs {format_bytes(size)}"
    have = f"{format_bytes(free_space(path))} are free"
    remedy = "raise the limit (ulimit -f)" if limit else "make room"
    return UserError(
        f"{path}: {reason}{needs}, {have}; {remedy} and run the same command again: what was "
        "written before is kept"
    )


def check_disk_space(path: str | Path, size: int) -> None:
    """Raise ``UserError`` unless ``size`` bytes have room at ``path``, before work is spent on
    them."""
    if size > free_space(path):
        raise disk_full_error(Path(path), size)


def free_space(path: str | Path) -> int:
    """Bytes that can still be written where ``path`` is or would be."""
    path = Path(path).absolute()
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path).free


def format_bytes(size: float) -> str:
    """A number of bytes for people."""
    for unit in ("bytes", "KiB", "MiB"):
        if abs(size) < 1024:
            return f"{size:.0f} {unit}" if unit == "bytes" else f"{size:.1f} {unit}"
        size /= 1024
    return f"{size:.1f} GiB"
