"""Memory of the host: how much is free, and the error when it runs out."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from filmvqa.errors import UserError


@contextmanager
def explained_out_of_memory(describe: Callable[[], str]) -> Iterator[None]:
    """Turn the exception that memory ran out, of torch or Python, into a ``UserError`` with the
    message that ``describe`` gives."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # OutOfMemoryError is a RuntimeError
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and (
            "can't allocate memory" not in str(error)  # the CPU allocator's message
        ):
            raise
        raise UserError(describe()) from error


def free_memory() -> int:
    """Bytes of memory that are available without swapping, within the limits of a container."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":") for line in lines)
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no group, or no limit: "max"
        return free
