"""Timing, the limits of the hardware (ceilings), and the results of measurements."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from filmvqa.features.rows import DatasetRows

#: Sizes of the square matrices; the fastest product is the ceiling.
MATRIX_SIZES = {"cpu": (1024, 2048, 4096), "cuda": (2048, 4096, 8192, 16384)}


def time_runs(
    work: Callable[[], object], runs: int, device: torch.device, *, warm_up: int = 1
) -> list[float]:
    """Seconds of each of ``runs`` calls of ``work``, after ``warm_up`` calls that are not counted.

    A call ends when the device has finished its work.
    """
    seconds = []
    for call in range(warm_up + runs):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if call >= warm_up:
            seconds.append(time.perf_counter() - started)
    return seconds


@dataclass
class BenchmarkResult:
    """The measurement of one part of the pipeline.

    Attributes
    ----------
    unit
        What is counted, such as ``questions``.
    runs, reference_runs
        The rate of each run, in units per second, of the part and of the reference; None if the
        part has no reference.
    flops
        Floating-point operations per unit; a multiply-add counts as two.
    bytes
        Bytes moved per unit, for a part without arithmetic.
    ceiling
        The name of the ceiling that limits the rate; None if there is none.
    """

    unit: str
    runs: list[float]
    reference_runs: list[float] | None = None
    flops: float = 0.0
    bytes: float = 0.0
    ceiling: str | None = None

    @property
    def rate(self) -> float:
        """The median rate."""
        return statistics.median(self.runs)

    @property
    def reference_rate(self) -> float | None:
        """The median rate of the reference."""
        return statistics.median(self.reference_runs) if self.reference_runs else None

    @property
    def ratio(self) -> float | None:
        """The rate divided by that of the reference."""
        return self.rate / self.reference_rate if self.reference_rate else None

    def share(self, ceilings: dict[str, float]) -> float | None:
        """The fraction of the ceiling that the part reaches; None if it has no ceiling."""
        if self.ceiling is None:
            return None
        return self.rate * (self.flops or self.bytes) / ceilings[self.ceiling]

    def record(self, ceilings: dict[str, float]) -> dict[str, Any]:
        """The result as a record of the JSON file."""
        return {
            "unit": self.unit,
            "rate": self.rate,
            "spread": [min(self.runs), max(self.runs)],
            "reference_rate": self.reference_rate,
            "ratio": self.ratio,
            "flops": self.flops,
            "bytes": self.bytes,
            "ceiling": self.ceiling,
            "share_of_ceiling": self.share(ceilings),
            "runs": self.runs,
            "reference_runs": self.reference_runs,
        }


def matmul_ceiling(
    precision: str, device: torch.device, runs: int, sizes: Sequence[int] | None = None
) -> float:
    """Floating-point operations per second of the fastest product of square matrices of these
    sizes; None: ``MATRIX_SIZES``."""
    best = 0.0
    dtype = getattr(torch, precision)
    for size in sizes or MATRIX_SIZES["cuda" if device.type == "cuda" else "cpu"]:
        a, b = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
        seconds = time_runs(lambda a=a, b=b: a @ b.t(), runs, device)  # type: ignore[misc]
        best = max(best, 2 * size**3 / statistics.median(seconds))
    return best


def memory_ceiling(device: torch.device, runs: int) -> float:
    """Bytes per second that are copied by a copy of 256 MiB in memory."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    return source.nbytes / statistics.median(
        time_runs(lambda: target.copy_(source), runs, device, warm_up=2)
    )


def disk_ceiling(path: Path, rows: DatasetRows, runs: int) -> float:
    """Bytes per second of reading a whole file that is not in the page cache."""
    buffer, all_rows = rows.empty(len(rows)), np.arange(len(rows))
    seconds = []
    for _ in range(runs):
        drop_from_page_cache(path)
        seconds += time_runs(lambda: rows.read(all_rows, buffer), 1, torch.device("cpu"), warm_up=0)
    return rows.num_bytes / statistics.median(seconds)


def drop_from_page_cache(path: Path) -> None:
    """Remove a file from the page cache, if the operating system supports it."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rates(units: float, seconds: Sequence[float]) -> list[float]:
    """Units per second of runs that processed ``units`` each."""
    return [units / duration for duration in seconds]
