"""Time work, count its operations, and measure the limits of the hardware (ceilings)."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import h5py
import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from filmvqa.features.rows import DatasetRows

#: Sizes of the square matrices; the fastest product is the ceiling.
MATRIX_SIZES = {"cpu": (1024, 2048, 4096), "cuda": (2048, 4096, 8192, 16384)}


@dataclass
class Work:
    """Work that is timed.

    Attributes
    ----------
    unit, count
        What a call processes, such as ``questions``, and how many.
    prepare
        Called before each call; its time is not counted.
    flops, bytes
        Floating-point operations per unit (a multiply-add counts as two), or bytes moved.
    ceiling
        The name of the ceiling that limits the rate; None if there is none.
    """

    unit: str
    count: float
    call: Callable[[], object]
    prepare: Callable[[], object] = lambda: None
    flops: float = 0.0
    bytes: float = 0.0
    ceiling: str | None = None

    def rates(self, runs: int, device: torch.device, warm_up: int = 1) -> list[float]:
        """The units per second of ``runs`` calls, after ``warm_up`` calls that are not counted.

        A call ends when the device has finished its work.
        """
        seconds = []
        for _ in range(warm_up + runs):
            self.prepare()
            started = time.perf_counter()
            self.call()
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds.append(time.perf_counter() - started)
        return [self.count / duration for duration in seconds[warm_up:]]

    def record(
        self, runs: list[float], reference_runs: list[float] | None, ceilings: dict[str, float]
    ) -> dict[str, Any]:
        """Make the record of the JSON file: rates of the runs and of the reference, medians, and
        the share of the ceiling."""
        rate, share = median(runs), None
        reference_rate = median(reference_runs) if reference_runs else None
        if self.ceiling is not None:
            share = rate * (self.flops or self.bytes) / ceilings[self.ceiling]
        return {
            "unit": self.unit,
            "rate": rate,
            "spread": [min(runs), max(runs)],
            "reference_rate": reference_rate,
            "ratio": rate / reference_rate if reference_rate else None,
            "flops": self.flops,
            "bytes": self.bytes,
            "ceiling": self.ceiling,
            "share_of_ceiling": share,
            "runs": runs,
            "reference_runs": reference_runs,
        }


def measure_ceilings(
    device: torch.device, features: Path, runs: int, sizes: Sequence[int] | None
) -> dict[str, float]:
    """Measure the ceilings, per second: operations of the fastest product of square matrices of
    these sizes (None: ``MATRIX_SIZES``), bytes copied in memory, and bytes read from the feature
    file on disk."""
    ceilings = {}
    for precision in ("float32", "bfloat16"):
        products = []
        for size in sizes or MATRIX_SIZES["cuda" if device.type == "cuda" else "cpu"]:
            matrix = torch.randn(size, size, device=device).to(getattr(torch, precision))
            work = Work("operations", 2 * size**3, partial(torch.mm, matrix, matrix.t()))
            products.append(median(work.rates(runs, device)))
        ceilings[f"matmul_{precision}"] = max(products)
    source = torch.ones(2**26, device=device)
    copying = Work("bytes", source.nbytes, partial(torch.empty_like(source).copy_, source))
    ceilings["memory"] = median(copying.rates(runs, device, warm_up=2))
    with h5py.File(features, "r") as file:
        rows = DatasetRows(file["features"])
        reading = Work(
            "bytes", rows.num_bytes,
            partial(rows.read, np.arange(len(rows)), rows.empty(len(rows))),
            partial(drop_from_page_cache, features),
        )  # fmt: skip
        ceilings["disk"] = median(reading.rates(runs, torch.device("cpu"), warm_up=0))
    return ceilings


def drop_from_page_cache(path: Path) -> None:
    """Remove a file from the page cache, if the operating system supports it."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())
            os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def count_operations(work: Callable[[], object]) -> float:
    """Count the operations of matrix products and convolutions in a call of ``work``, including
    recurrent networks that run whole in cuDNN, which torch's counter ignores."""
    custom: dict[Any, Any] = {
        torch.ops.aten._cudnn_rnn: rnn_operations,
        torch.ops.aten._cudnn_rnn_backward: rnn_gradient_operations,
    }
    with FlopCounterMode(display=False, custom_mapping=custom) as counter:
        work()
    return float(counter.get_total_flops())


def rnn_operations(words: torch.Size, weights: list[torch.Size], *_: Any, **__: Any) -> int:
    """The operations of one layer over packed words (M, E), from its weights' shapes: each word or
    state is multiplied by each matrix."""
    return 2 * words[0] * sum(math.prod(shape) for shape in weights if len(shape) == 2)


def rnn_gradient_operations(
    words: torch.Size, weights: list[torch.Size], *_: Any, **__: Any
) -> int:
    """As ``rnn_operations``, for the gradients of states, words and matrices."""
    return 2 * rnn_operations(words, weights)
