"""How the loops that replace torch's functions on a CPU are compiled and run."""

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
    # Sums may be reordered; NaN stays NaN, so that a training that diverges is seen.
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
    # Python's check of each divisor would keep loops from becoming vectors.
    "error_model": "numpy",
}
#: Decorates a function that is called from Python, on arrays; threads can run it side by side.
kernel = numba.njit(cache=True, nogil=True, **_OPTIONS)
#: Decorates a function that kernels call in their loops.
inlined = numba.njit(inline="always", **_OPTIONS)


def kernels_take(*tensors: Tensor) -> bool:
    """Whether kernels can compute with these: in float32 on a CPU, and neither under autocast nor
    while torch compiles."""
    return (
        all(t.device.type == "cpu" and t.dtype == torch.float32 for t in tensors)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
    )


def over_questions(function: Callable[..., None], *tensors: Tensor) -> None:
    """Run a kernel on all questions, in as many threads as torch has.

    The kernel takes the first question, the one after the last, and the tensors as arrays; the
    first of them has a row for each question.
    """
    arrays = [tensor.detach().numpy() for tensor in tensors]
    questions = len(arrays[0])
    threads = max(1, min(torch.get_num_threads(), questions))
    bounds = [questions * i // threads for i in range(threads + 1)]
    first, *others = pairwise(bounds)
    running = [_pool(threads - 1).submit(function, *part, *arrays) for part in others]
    function(*first, *arrays)
    for done in running:
        done.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Kept by the number of threads."""
    return ThreadPoolExecutor(threads, "kernels")
