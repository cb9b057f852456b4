"""How the loops that replace torch's functions on a CPU are compiled."""

from __future__ import annotations

from typing import Any

import numba

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
