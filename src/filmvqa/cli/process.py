"""Settings of the whole process, which programs change, and the library never."""

from __future__ import annotations

import atexit
import ctypes
import errno
import gc
import io
import os
import signal
import sys
from typing import Any


def set_environment() -> None:
    """Set environment variables that libraries read when they start, unless the user has set them.

    - ``TQDM_MININTERVAL``: in a log file, a progress bar is printed every ten seconds.
    - ``CUBLAS_WORKSPACE_CONFIG``: makes cuBLAS deterministic.
    - ``LRU_CACHE_CAPACITY``: limits torch's cache of kernels for bfloat16 products on a CPU. Each
      shape needs a kernel, and an encoder's shapes change with each batch. oneDNN caches 1,024
      kernels, and torch by default another 1,024, which are rarely reused and take 400 MB. oneDNN's
      cache keeps its size: with 256 kernels the demo trains a quarter slower on a processor with
      AMX.
    - ``GOMP_SPINCOUNT``: how long OpenMP's threads, in which torch computes, wait for the next
      operation before they sleep. By default they wait so long that they take the cores from the
      threads of ``models.kernels`` and from other programs: beside two other programs, the demo
      trained at an eighth of its speed. With 1,000 its step takes a sixth less time on two cores.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_MININTERVAL", "10")
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "64")
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "1000")


def search_garbage_rarely() -> None:
    """Search for reference cycles after 20,000 new objects instead of 700, and not when the program
    ends.

    Imports of libraries create hundreds of thousands of objects, hardly any of them garbage: the
    searches take a quarter of torch's import.
    """
    gc.set_threshold(20_000)
    atexit.register(gc.freeze)


def open_standard_streams() -> None:
    """Open the null device for each standard stream that the parent process closed.

    Otherwise writes to ``sys.stderr`` fail, and the next file that is opened, such as a feature
    file, gets the descriptor to which C libraries write their messages.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is not None:
            continue
        try:
            os.fstat(number)
        except OSError:  # closed: the system opens the lowest free descriptor, which is this one
            os.open(os.devnull, os.O_RDWR)
        setattr(sys, name, open(os.devnull, "w" if number else "r", encoding="utf-8"))  # noqa: SIM115


class _Output(io.FileIO):
    """Standard output or error of a program that outlives its reader: what it prints to a closed
    terminal, or on standard error to a closed pipe, is lost.

    A closed pipe ends a program that still prints its results, as shells expect.
    """

    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except OSError as error:
            lost = (errno.EIO, errno.EPIPE) if self.fileno() == 2 else (errno.EIO,)
            if error.errno not in lost:
                raise
            return len(data)


def print_in_any_case() -> None:
    """Make standard output and error escape a character that their encoding lacks, such as × in
    ASCII, and outlive their readers, instead of failing."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if not isinstance(stream, io.TextIOWrapper):  # a notebook's, or None
            continue
        stream.reconfigure(errors="backslashreplace")
        if stream is getattr(sys, f"__{name}__"):
            stream.flush()
            raw = _Output(stream.fileno(), "w", closefd=False)
            buffer: Any = raw if stream.write_through else io.BufferedWriter(raw)
            stream = io.TextIOWrapper(
                buffer, stream.encoding, "backslashreplace",
                line_buffering=stream.line_buffering, write_through=stream.write_through,
            )  # fmt: skip
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)


def keep_freed_memory() -> None:
    """Make glibc keep freed memory for later allocations. Other C libraries are unchanged.

    By default glibc returns large blocks to the system at once, and the system clears each page of
    a new block. This takes a sixth of a training step of the paper's network on two cores.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: large allocations come from the heap
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: never shrink the heap


def end_with_parent() -> None:
    """Make Linux send SIGTERM to this process when its parent ends. Other systems cannot."""
    if sys.platform.startswith("linux"):
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
