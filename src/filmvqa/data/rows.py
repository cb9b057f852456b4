"""Rows of an HDF5 dataset, read by several threads at once past HDF5.

HDF5 lets one thread of a process in at a time, and may be unable to open a file that a process was
killed in writing. In files of this project and of film each row, or all of them, lie in one
contiguous piece: HDF5 is asked once for the offsets of these pieces, and rows are then read and
written at their offsets. Any other storage is read through HDF5.
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
_TORCH_DTYPES = {"float16": torch.float16, "float32": torch.float32, "uint8": torch.uint8}
_REMEDY = "delete the file and make it again with scripts/extract_features.py"


class DatasetRows:
    """Rows of ``dataset`` (N, ...), which with its file belongs to this object from now on.

    Each row is checked when it is first read: against its checksum in ``checksums`` (N,) if given,
    and for values that are not finite. ``direct`` says whether rows are read past HDF5.
    """

    def __init__(self, dataset: h5py.Dataset, checksums: NDArray[np.uint32] | None = None) -> None:
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype = _TORCH_DTYPES[dataset.dtype.name]
        self.path = Path(dataset.file.filename)
        self._checksums = checksums
        self._checked = np.zeros(len(dataset), bool)
        self._row_bytes = int(dataset.dtype.itemsize * np.prod(dataset.shape[1:]))
        self._offsets = row_offsets(dataset)
        self.direct = self._offsets is not None
        self._descriptor: int | None = None
        self._dataset: h5py.Dataset | None = dataset
        if self.direct:
            dataset.file.close()
            self._dataset = None
            self._descriptor = os.open(self.path, os.O_RDONLY)
        self._pool = ThreadPoolExecutor(THREADS)

    def close(self) -> None:
        """Close the file and end the threads; calling it again changes nothing."""
        self._pool.shutdown(cancel_futures=True)
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
        if self._dataset is not None:
            self._dataset.file.close()
            self._dataset = None

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
        if self._dataset is None and self._descriptor is None:
            raise ValueError(f"{self.path}: was closed")
        target = out.numpy()
        if self._offsets is None:
            assert self._dataset is not None
            # One read a row: HDF5's own point selection is slower by an order of magnitude.
            for k, row in enumerate(rows.tolist()):
                self._dataset.read_direct(target, np.s_[row], np.s_[k])
            self._check(rows, target)
            return
        offsets = self._offsets[rows]
        # Rows that are adjacent in the file are one read, up to a thread's share of the rows.
        longest = max(1, -(-len(rows) // THREADS))
        adjacent = np.diff(offsets) == self._row_bytes
        starts = [0]
        for k in range(1, len(rows)):
            if not adjacent[k - 1] or k - starts[-1] >= longest:
                starts.append(k)
        jobs = [
            self._pool.submit(self._fill, rows[a:b], target[a:b], int(offsets[a]))
            for a, b in zip(starts, [*starts[1:], len(rows)], strict=True)
        ]
        for job in jobs:
            job.result()

    def _fill(self, rows: NDArray[np.int64], out: NDArray[np.generic], offset: int) -> None:
        assert self._descriptor is not None
        buffer = out.reshape(-1).view(np.uint8).data
        while buffer:
            num_read = os.preadv(self._descriptor, [buffer], offset)
            if num_read == 0:
                raise UserError(
                    f"{self.path}: ends at byte {offset}, before the features that it lists; "
                    f"{_REMEDY}"
                )
            buffer, offset = buffer[num_read:], offset + num_read
        self._check(rows, out)

    def _check(self, rows: NDArray[np.int64], maps: NDArray[np.generic]) -> None:
        for row, values in zip(rows.tolist(), maps, strict=True):
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
        # Infinity and NaN begin at 0x7C00, with the sign bit at 0xFC00.
        positive, negative = (values.view(dtype).max(initial=0) for dtype in (np.int16, np.uint16))
        return bool(positive < 0x7C00 and negative < 0xFC00)
    return bool(np.isfinite(values).all())


def create_rows(
    file: h5py.File, name: str, shape: tuple[int, ...], dtype: str, *, one_chunk_a_row: bool
) -> None:
    """Create a dataset whose storage is allocated at once: HDF5's metadata does not change while
    rows are written, so that a killed process leaves a file that opens."""
    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    if one_chunk_a_row:
        layout.set_chunk((1, *shape[1:]))
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    h5_type = h5py.h5t.py_create(np.dtype(dtype), logical=True)
    h5py.h5d.create(file.id, name.encode(), h5_type, h5py.h5s.create_simple(shape), layout)


def row_offsets(dataset: h5py.Dataset) -> NDArray[np.int64] | None:
    """Byte offsets (N,) of the rows in the file; None if a row is not stored as it is in memory."""
    count = dataset.shape[0]
    row_bytes = int(dataset.dtype.itemsize * np.prod(dataset.shape[1:]))
    addressable = (
        dataset.dtype.isnative and not dataset.file.userblock_size and hasattr(os, "preadv")
    )
    if not addressable or count == 0:
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
