"""Rows of an HDF5 dataset read by several threads at once, straight into their place.

HDF5 lets one thread of a process in at a time. What this project and film write lies in the file as
it does in memory, a row (or all of them) in one piece: the places of the pieces are asked of HDF5
once, and then read past it, in parallel, without a copy. Any other layout is read through HDF5.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: Reads in flight: a disk serves several sooner than one after another.
THREADS = 4
_TORCH = {"float16": torch.float16, "float32": torch.float32, "uint8": torch.uint8}


class DatasetRows:
    """Rows of ``dataset`` (N, ...), which this object owns from now on.

    ``direct`` says whether they are read past HDF5.
    """

    def __init__(self, dataset: h5py.Dataset) -> None:
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype = _TORCH[dataset.dtype.name]
        self._path = Path(dataset.file.filename)
        self._row_bytes = int(dataset.dtype.itemsize * np.prod(dataset.shape[1:]))
        self._offsets = _offsets(dataset, self._row_bytes)
        self.direct = self._offsets is not None
        self._pool = ThreadPoolExecutor(THREADS)
        if self.direct:
            dataset.file.close()
            self._file = os.open(self._path, os.O_RDONLY)
        else:
            self._dataset = dataset

    def __len__(self) -> int:
        return int(self.shape[0])

    @property
    def num_bytes(self) -> int:
        """Size of all rows."""
        return len(self) * self._row_bytes

    def empty(self, count: int, *, pin: bool = False) -> Tensor:
        """Room for ``count`` rows on the host, pinned if it is to be sent to a GPU."""
        return torch.empty((count, *self.shape[1:]), dtype=self.dtype, pin_memory=pin)

    def read(self, rows: NDArray[np.int64], out: Tensor) -> None:
        """Fill ``out`` (n, ...) on the host with the rows of sorted indices (n,).

        Raises
        ------
        OSError
            If the file is shorter than it says.
        """
        if self._offsets is None:
            target = out.numpy()
            # One read a row: HDF5's own point selection is slower by an order of magnitude.
            for k, row in enumerate(rows.tolist()):
                self._dataset.read_direct(target, np.s_[row], np.s_[k])
            return
        offsets = self._offsets[rows]
        # Rows that follow one another in the file are one read, if not too long to be shared out.
        longest = max(1, -(-len(rows) // THREADS))
        joined = np.diff(offsets) == self._row_bytes
        starts = [0]
        for k in range(1, len(rows)):
            if not joined[k - 1] or k - starts[-1] >= longest:
                starts.append(k)
        buffer = out.numpy().reshape(-1).view(np.uint8).data
        size = self._row_bytes
        jobs = [
            self._pool.submit(self._fill, buffer[a * size : b * size], int(offsets[a]))
            for a, b in zip(starts, [*starts[1:], len(rows)], strict=True)
        ]
        for job in jobs:
            job.result()

    def _fill(self, buffer: memoryview, offset: int) -> None:
        while buffer:
            got = os.preadv(self._file, [buffer], offset)
            if got == 0:
                raise OSError(
                    f"{self._path}: ends at byte {offset}, before the features that it lists"
                )
            buffer, offset = buffer[got:], offset + got


def _offsets(dataset: h5py.Dataset, row_bytes: int) -> NDArray[np.int64] | None:
    """Where each row begins in the file; None if rows do not lie there as they do in memory."""
    count = dataset.shape[0]
    plain = dataset.dtype.isnative and not dataset.file.userblock_size and hasattr(os, "preadv")
    if not plain or count == 0:
        return None
    if dataset.chunks is None:
        first = dataset.id.get_offset()  # None for what is not in one piece in this file
        return None if first is None else first + row_bytes * np.arange(count, dtype=np.int64)
    if dataset.chunks != (1, *dataset.shape[1:]) or dataset.compression or dataset.shuffle:
        return None
    if (
        dataset.fletcher32
        or dataset.scaleoffset is not None
        or not hasattr(dataset.id, "chunk_iter")
    ):
        return None
    offsets = np.full(count, -1, np.int64)

    def note(chunk: h5py.h5d.StoreInfo) -> None:
        offsets[chunk.chunk_offset[0]] = chunk.byte_offset

    dataset.id.chunk_iter(note)
    return offsets if (offsets >= 0).all() else None
