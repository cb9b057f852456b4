"""Shared by the HDF5 files of questions and of features."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

#: Raised by h5py for a file that it cannot interpret.
HDF5_ERRORS = (
    OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError,
    IndexError, MemoryError,
)  # fmt: skip


def arrays_sha256(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Hash of arrays with their names, types and shapes, in the order of their names."""
    digest = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        digest.update(f"{name} {values.dtype.str} {values.shape} ".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()
