"""Timing, ceilings of the hardware, and the record of one part."""

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

from filmvqa.data.rows import DatasetRows

#: Sides of the square matrices whose fastest product is the ceiling.
SIDES = {"cpu": (1024, 2048, 4096), "cuda": (2048, 4096, 8192, 16384)}


def time_runs(
    work: Callable[[], object], runs: int, device: torch.device, *, warm_up: int = 1
) -> list[float]:
    """Seconds of each of ``runs`` calls, after ``warm_up`` that do not count; each ends when the
    device has finished."""
    seconds = []
    for k in range(warm_up + runs):
        started = time.perf_counter()
        work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        if k >= warm_up:
            seconds.append(time.perf_counter() - started)
    return seconds


@dataclass
class BenchmarkResult:
    """A measured part: rates in ``unit`` a second, one a run.

    ``flops`` is the arithmetic of one unit, a multiply-add being two; ``bytes`` what is moved
    for one where a part does no arithmetic; ``ceiling`` names the one that ``share`` refers to.
    """

    unit: str
    runs: list[float]
    reference_runs: list[float] | None = None
    flops: float = 0.0
    bytes: float = 0.0
    ceiling: str | None = None

    @property
    def rate(self) -> float:
        return statistics.median(self.runs)

    @property
    def reference_rate(self) -> float | None:
        return statistics.median(self.reference_runs) if self.reference_runs else None

    @property
    def ratio(self) -> float | None:
        return self.rate / self.reference_rate if self.reference_rate else None

    def share(self, ceilings: dict[str, float]) -> float | None:
        """Of the ceiling, what this part makes use of."""
        if self.ceiling is None:
            return None
        return self.rate * (self.flops or self.bytes) / ceilings[self.ceiling]

    def record(self, ceilings: dict[str, float]) -> dict[str, Any]:
        """As it stands in the JSON."""
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


def matmul_ceiling(precision: str, device: torch.device, runs: int) -> float:
    """Floating-point operations a second of the fastest square matrix product."""
    best = 0.0
    dtype = getattr(torch, precision)
    for side in SIDES["cuda" if device.type == "cuda" else "cpu"]:
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        seconds = time_runs(lambda a=a, b=b: a @ b.t(), runs, device)  # type: ignore[misc]
        best = max(best, 2 * side**3 / statistics.median(seconds))
    return best


def memory_ceiling(device: torch.device, runs: int) -> float:
    """Bytes a second that a copy of 256 MiB reads, and writes besides."""
    source = torch.ones(2**26, device=device)
    target = torch.empty_like(source)
    return source.nbytes / statistics.median(
        time_runs(lambda: target.copy_(source), runs, device, warm_up=2)
    )


def disk_ceiling(path: Path, rows: DatasetRows, runs: int) -> float:
    """Bytes a second of reading all of a file that the page cache does not hold."""
    out, every = rows.empty(len(rows)), np.arange(len(rows))
    seconds = []
    for _ in range(runs):
        forget(path)
        seconds += time_runs(lambda: rows.read(every, out), 1, torch.device("cpu"), warm_up=0)
    return rows.num_bytes / statistics.median(seconds)


def forget(path: Path) -> None:
    """Drop a file from the page cache, where the system can be asked to."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def rates(amount: float, seconds: Sequence[float]) -> list[float]:
    """Units a second of runs of ``amount`` units each."""
    return [amount / each for each in seconds]
