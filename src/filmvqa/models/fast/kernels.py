"""Compiling and running loops that replace torch's functions on a CPU."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from itertools import pairwise
from typing import Any

import numba
import torch
from torch import Tensor

_OPTIONS: dict[str, Any] = {
    # Sums may be reordered. NaN stays NaN, so that diverging training is noticed.
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
    # Python's check of each divisor would prevent vectorisation.
    "error_model": "numpy",
}
#: Decorator of a function that is called from Python with arrays. Threads can run it in parallel.
kernel = numba.njit(cache=True, nogil=True, **_OPTIONS)
#: Decorator of a function that kernels call in their loops.
inlined = numba.njit(inline="always", **_OPTIONS)


def kernels_take(*tensors: Tensor) -> bool:
    """Whether kernels support the tensors: float32 on a CPU, without autocast or compilation."""
    return (
        all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def over_questions(function: Callable[..., None], *tensors: Tensor) -> None:
    """Run a kernel on all questions, in as many threads as torch uses.

    The kernel takes the first question, the question after the last, and the tensors as arrays. The
    first array has a row for each question.
    """
    arrays = [tensor.detach().numpy() for tensor in tensors]
    questions = len(arrays[0])
    threads = max(1, min(torch.get_num_threads(), questions))
    bounds = [questions * i // threads for i in range(threads + 1)]
    first, *others = pairwise(bounds)
    futures = [_pool(threads - 1).submit(function, *part, *arrays) for part in others]
    function(*first, *arrays)
    for future in futures:
        future.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """The pool with that number of threads, which is kept."""
    return ThreadPoolExecutor(threads, "kernels")
