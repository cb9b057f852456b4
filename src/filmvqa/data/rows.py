"""Rows of an HDF5 dataset read and written by several threads at once, straight at their place.

HDF5 lets one thread of a process in at a time, and may not open a file again that it was killed
while writing. What this project and film write lies in the file as it does in memory, a row (or all
of them) in one piece: the places of the pieces are asked of HDF5 once, and then read and written
past it. Any other layout is read through HDF5.
"""

from __future__ import annotations

import os
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from filmvqa.errors import UserError

#: Reads in flight: a disk serves several sooner than one after another.
THREADS = 4
_TORCH = {"float16": torch.float16, "float32": torch.float32, "uint8": torch.uint8}
_REMEDY = "delete the file and make it again with scripts/extract_features.py"


class DatasetRows:
    """Rows of ``dataset`` (N, ...), which this object owns from now on.

    Each row is checked when it is first read: against its checksum in ``checksums`` (N,), where
    there are any, and for values that are not finite. ``direct`` says whether rows are read past
    HDF5.
    """

    def __init__(self, dataset: h5py.Dataset, checksums: NDArray[np.uint32] | None = None) -> None:
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype = _TORCH[dataset.dtype.name]
        self.path = Path(dataset.file.filename)
        self._checksums = checksums
        self._checked = np.zeros(len(dataset), bool)
        self._row_bytes = int(dataset.dtype.itemsize * np.prod(dataset.shape[1:]))
        self._offsets = row_offsets(dataset)
        self.direct = self._offsets is not None
        self._pool = ThreadPoolExecutor(THREADS)
        if self.direct:
            dataset.file.close()
            self._file = os.open(self.path, os.O_RDONLY)
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
        UserError
            If the file is shorter than it says, or a row damaged or not finite.
        """
        target = out.numpy()
        if self._offsets is None:
            # One read a row: HDF5's own point selection is slower by an order of magnitude.
            for k, row in enumerate(rows.tolist()):
                self._dataset.read_direct(target, np.s_[row], np.s_[k])
            self._check(rows, target)
            return
        offsets = self._offsets[rows]
        # Rows that follow one another in the file are one read, if not too long to be shared out.
        longest = max(1, -(-len(rows) // THREADS))
        joined = np.diff(offsets) == self._row_bytes
        starts = [0]
        for k in range(1, len(rows)):
            if not joined[k - 1] or k - starts[-1] >= longest:
                starts.append(k)
        jobs = [
            self._pool.submit(self._fill, rows[a:b], target[a:b], int(offsets[a]))
            for a, b in zip(starts, [*starts[1:], len(rows)], strict=True)
        ]
        for job in jobs:
            job.result()

    def _fill(self, rows: NDArray[np.int64], out: NDArray[np.generic], offset: int) -> None:
        buffer = out.reshape(-1).view(np.uint8).data
        while buffer:
            got = os.preadv(self._file, [buffer], offset)
            if got == 0:
                raise UserError(
                    f"{self.path}: ends at byte {offset}, before the features that it lists; "
                    f"{_REMEDY}"
                )
            buffer, offset = buffer[got:], offset + got
        self._check(rows, out)

    def _check(self, rows: NDArray[np.int64], found: NDArray[np.generic]) -> None:
        for row, values in zip(rows.tolist(), found, strict=True):
            if self._checked[row]:
                continue
            if self._checksums is not None and zlib.crc32(values.data) != self._checksums[row]:
                raise UserError(
                    f"{self.path}: the features of image {row} are damaged (other checksum); "
                    f"{_REMEDY}"
                )
            if not all_finite(values):
                raise UserError(
                    f"{self.path}: the features of image {row} are not finite (NaN or infinity); "
                    f"{_REMEDY}"
                )
            self._checked[row] = True


def all_finite(values: NDArray[np.generic]) -> bool:
    """Whether no value is NaN or infinite; for float16 by its bits, without a copy."""
    if values.dtype == np.float16:
        # From 0x7C00 on it is infinity or NaN, with the sign's bit from 0xFC00 on.
        above, below = (values.view(kind).max(initial=0) for kind in (np.int16, np.uint16))
        return bool(above < 0x7C00 and below < 0xFC00)
    return bool(np.isfinite(values).all())


def create_rows(
    file: h5py.File, name: str, shape: tuple[int, ...], dtype: str, *, one_chunk_a_row: bool
) -> None:
    """Create a dataset whose place in the file is settled now, before anything is written: so
    that nothing of what HDF5 keeps for itself changes while rows come, and a process that is
    killed leaves a file that opens."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    if one_chunk_a_row:
        layout.set_chunk((1, *shape[1:]))
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    kind = h5py.h5t.py_create(np.dtype(dtype), logical=True)
    h5py.h5d.create(file.id, name.encode(), kind, h5py.h5s.create_simple(shape), layout)


def row_offsets(dataset: h5py.Dataset) -> NDArray[np.int64] | None:
    """Where each row begins in the file; None if rows do not lie there as they do in memory."""
    count = dataset.shape[0]
    row_bytes = int(dataset.dtype.itemsize * np.prod(dataset.shape[1:]))
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
