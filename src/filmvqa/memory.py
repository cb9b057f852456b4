"""Memory of the host: how much is free, what is kept, and what to say when it does not suffice."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from filmvqa.errors import UserError


@contextmanager
def explained_out_of_memory(describe: Callable[[], str]) -> Iterator[None]:
    """Turn what torch says when memory does not suffice into a ``UserError`` of ``describe``."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # OutOfMemoryError is a RuntimeError
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and (
            "can't allocate memory" not in str(error)  # what the CPU's allocator says
        ):
            raise
        raise UserError(describe()) from error


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees, where that can be told (glibc).

    By default glibc gives large blocks back at once, and the system clears new ones page by page:
    a sixth of a training step of the paper's network on two cores.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: no block of its own for a large allocation
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: never shrink the heap


def bound_kernel_caches() -> None:
    """Let torch keep fewer of the kernels that the CPU makes for bfloat16 products.

    One is made for each shape that is met, and an encoder's shapes change from batch to batch.
    oneDNN keeps 1,024, and torch 1,024 more that are hardly used again: half of 800 MB. oneDNN's
    own cache stays as it is: with 256 the demo trains a quarter slower on a processor with AMX.
    Heeded if torch has not used them before.
    """
    os.environ.setdefault("LRU_CACHE_CAPACITY", "64")


def free_memory() -> int:
    """Bytes of memory that can be had without swapping, within the limits of a container."""
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
