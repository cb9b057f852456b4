"""Settings of the whole process, which only programs choose, never the library."""

from __future__ import annotations

import ctypes
import io
import os
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any


def set_environment() -> None:
    """Set environment variables that libraries read when they start, unless the user has set them.

    - ``TQDM_MININTERVAL``: in a log file, progress bars are printed every ten seconds.
    - ``CUBLAS_WORKSPACE_CONFIG``: makes cuBLAS deterministic.
    - ``LRU_CACHE_CAPACITY``: limits torch's cache of kernels for bfloat16 products on a CPU. Each
      shape needs a kernel, and the shapes of an encoder change with each batch. oneDNN caches 1,024
      kernels, and torch by default another 1,024, which are rarely used again and take 400 MB.
      oneDNN's cache is not reduced: with 256 kernels the demo trains a quarter slower on a
      processor with AMX.
    - ``GOMP_SPINCOUNT``: how long OpenMP's threads, in which torch computes, wait for the next
      operation before they sleep. By default it is so long that they take the cores from
      ``models.kernels``' threads, and from other programs: beside two of these, the demo's training
      had an eighth of its speed. With 1,000 its step takes a sixth less time on two cores.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "10")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "64")
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def open_standard_streams() -> None:
    """Open the null device for each of standard input, output and error that the parent closed.

    Otherwise whatever writes to ``sys.stderr`` fails, and the next file that is opened, such as
    features, takes its descriptor, to which C libraries write their messages.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:  # free: the lowest free descriptor is the one that the system gives
            os.open(os.devnull, os.O_RDWR)
        setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115


def print_any_character() -> None:
    """Make standard output and error print a character that their encoding lacks, such as × in
    ASCII, as an escape instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # not a notebook's, nor None
            stream.reconfigure(errors="backslashreplace")


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for later allocations; other C libraries are not changed.

    By default glibc returns large blocks to the system at once, and the system clears each page of
    a new block, which takes a sixth of a training step of the paper's network on two cores.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: large allocations come from the heap
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: never shrink the heap


def end_with_parent() -> None:
    """Make Linux send SIGTERM to this process when its parent ends; elsewhere nothing changes."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG


def interrupt_on_sigterm() -> None:
    """Make SIGTERM, which ends a batch job, interrupt the program as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _interrupt)


@contextmanager
def signal_handlers(handlers: Mapping[int, Any]) -> Iterator[None]:
    """Handle signals, by number, otherwise within a block, as ``signal.signal`` does."""
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt
