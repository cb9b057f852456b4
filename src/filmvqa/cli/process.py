"""Settings of the process, which are the program's to choose and not the library's."""

from __future__ import annotations

import ctypes
import os
import signal
import sys


def set_environment() -> None:
    """Set environment variables, where the user has not, that libraries read when they start.

    - ``TQDM_MININTERVAL``: a log file needs no progress bar ten times a second.
    - ``CUBLAS_WORKSPACE_CONFIG``: without it cuBLAS is not deterministic.
    - ``LRU_CACHE_CAPACITY``: for each shape that occurs, a CPU prepares a kernel for bfloat16
      products, and an encoder's shapes change from batch to batch. oneDNN keeps 1,024 of them, and
      torch 1,024 more that are hardly used again: half of 800 MB. oneDNN's own cache stays as it
      is: with 256 the demo trains a quarter slower on a processor with AMX.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "10")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "64")


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees, where the C library is glibc.

    By default glibc returns large blocks at once, and the system clears new ones page by page:
    a sixth of a training step of the paper's network on two cores.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: no block of its own for a large allocation
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: never shrink the heap


def interrupt_on_sigterm() -> None:
    """Let SIGTERM, which ends a batch job, end the program as Ctrl-C does: in order."""
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
