"""The host's free memory, and the error when memory runs out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from filmvqa.system.errors import UserError


@contextmanager
def explained_out_of_memory(describe: Callable[[], str]) -> Iterator[None]:
    """Replace an out-of-memory exception of torch or Python by a ``UserError`` with the message
    that ``describe`` returns."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # OutOfMemoryError is a RuntimeError
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and (
            "can't allocate memory" not in str(error)  # the CPU allocator's message
        ):
            raise
        raise UserError(describe()) from error


def free_memory() -> int:
    """Bytes of memory that are available without swapping, within a container's limit."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":") for line in lines)
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:
        cgroup = Path("/sys/fs/cgroup")
        limit, used = ((cgroup / f"memory.{name}").read_text() for name in ("max", "current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no cgroup, or no limit ("max")
        return free
