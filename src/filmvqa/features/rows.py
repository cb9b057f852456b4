"""Read rows of an HDF5 dataset in several threads, bypassing HDF5.

HDF5 runs one thread of a process at a time, and may be unable to open a file if the process that
wrote it was killed. In files of this project and of film, each row (or all rows together) is stored
contiguously. The byte offsets are read from HDF5 once and checked; rows are then read and written
at their offsets. Any other storage, order or type is read through HDF5.
"""

from __future__ import annotations

import math
import os
import weakref
import zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from filmvqa.system.errors import UserError
from filmvqa.system.hdf5 import HDF5_ERRORS, unreadable
from filmvqa.system.hdf5_storage import NEVER_WRITTEN, check_is_there, missing_rows, name_rows

if TYPE_CHECKING:
    import h5py

#: Parallel reads: a disk serves several sooner than one after another.
THREADS = 4
#: The type in memory for each type in a file, of either byte order.
TORCH_DTYPES = {
    "float16": torch.float16, "float32": torch.float32, "float64": torch.float32,
    "uint8": torch.uint8,
}  # fmt: skip
#: Bytes at the start of a file that HDF5 itself uses: the size of the smallest superblock.
_SUPERBLOCK = 48
#: How many rows of other projects' files are checked before work starts.
_SAMPLE = 64
REMEDY = "delete the file and make it again with scripts/extract_features.py"


class DatasetRows:
    """Rows of ``dataset`` (N, C, H, W).

    This object takes over the dataset and its file; ``close`` releases them, or the end of the last
    reference to the object. Each row is checked when it is first read: against its checksum in
    ``checksums`` (N,), if given, and for values that are not finite. ``direct`` is True if rows are
    read without HDF5.

    Some projects allocate more rows than they write. Rows that were never written are an error only
    when they are requested: see ``refuse_missing``.

    Parameters
    ----------
    channels_last
        The dataset is (N, H, W, C).
    image_idxs
        (N,) the image of each row, for messages; None: image i is row i.

    Raises
    ------
    UserError
        If rows are stored in other files that are missing.
    """

    def __init__(
        self,
        dataset: h5py.Dataset,
        checksums: NDArray[np.uint32] | None = None,
        *,
        channels_last: bool = False,
        image_idxs: NDArray[np.int32] | None = None,
    ) -> None:
        count, *map_shape = map(int, dataset.shape)
        self._channels_last = channels_last
        if channels_last:
            map_shape = [map_shape[2], *map_shape[:2]]
        self.shape: tuple[int, ...] = (count, *map_shape)
        self.dtype = TORCH_DTYPES[dataset.dtype.name]
        self.path = Path(dataset.file.filename)
        self.checksums, self.image_idxs = checksums, image_idxs
        self._missing, words = missing_rows(dataset)
        if words != NEVER_WRITTEN:
            check_is_there(dataset)
        # In other projects' files, a row of nothing but the fill value was never written, even if
        # storage is allocated. Pixels and masks may be all 0, but no network gives such maps.
        is_checked = checksums is not None or not self.dtype.is_floating_point
        self._fill_value = None if is_checked else dataset.fillvalue
        is_one_by_one = dataset.chunks is None or dataset.chunks[0] == 1
        #: Rows to read before work starts: only one if that reads the other rows of its chunk too.
        self.sample = 0 if is_checked else _SAMPLE if is_one_by_one else 1
        self._row_bytes = math.prod(map_shape) * self.dtype.itemsize
        is_as_in_memory = not channels_last and dataset.dtype.itemsize == self.dtype.itemsize
        self._offsets = row_offsets(dataset) if is_as_in_memory else None
        self.direct = self._offsets is not None
        self._checked = np.zeros(count, bool)
        self._descriptor: int | None = None
        self._dataset: h5py.Dataset | None = dataset
        if self.direct:
            dataset.file.close()
            self._dataset = None
            self._descriptor = os.open(self.path, os.O_RDONLY)
        self._release = weakref.finalize(self, _release, self._descriptor, self._dataset)
        self._pool = ThreadPoolExecutor(THREADS)

    def close(self) -> None:
        """Close the file and stop the threads. Further calls do nothing."""
        self._pool.shutdown(cancel_futures=True)
        self._release()
        self._descriptor = self._dataset = None

    def __len__(self) -> int:
        return int(self.shape[0])

    @property
    def num_bytes(self) -> int:
        """Size of all rows in memory, in bytes."""
        return len(self) * self._row_bytes

    def refuse_missing(self, rows: NDArray[np.int64]) -> None:
        """Raise ``UserError`` if some of the rows (n,) are known to be unwritten."""
        if self._missing.any() and self._missing[rows].any():
            wanted = np.zeros_like(self._missing)
            wanted[rows] = True
            raise UserError(
                f"{self.path}: {name_rows(wanted & self._missing)} of its features, which "
                f"questions ask about, cannot be used: {NEVER_WRITTEN}"
            )

    def empty(self, count: int, *, pin: bool = False) -> Tensor:
        """An uninitialised host tensor for ``count`` rows, pinned if a GPU will copy it."""
        return torch.empty((count, *self.shape[1:]), dtype=self.dtype, pin_memory=pin)

    def read(self, rows: NDArray[np.int64], out: Tensor) -> None:
        """Read the rows of sorted indices (n,) into ``out`` (n, C, H, W) on the host.

        Raises
        ------
        UserError
            If the file is unreadable or truncated, or a row is damaged or not finite.
        """
        if self._dataset is None and self._descriptor is None:
            raise ValueError(f"{self.path}: was closed")
        target = out.numpy()
        if self._offsets is None:
            self._read_through_hdf5(rows, target)
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

    def _read_through_hdf5(self, rows: NDArray[np.int64], target: NDArray[np.generic]) -> None:
        """Read rows one by one, since HDF5's point selection is slower by an order of magnitude.

        HDF5 converts the type to that of ``target``.
        """
        assert self._dataset is not None
        channels, height, width = self.shape[1:]
        try:
            for k, row in enumerate(rows.tolist()):
                if self._channels_last:
                    values = np.empty((height, width, channels), target.dtype)
                    self._dataset.read_direct(values, np.s_[row])
                    target[k] = values.transpose(2, 0, 1)
                else:
                    self._dataset.read_direct(target, np.s_[row], np.s_[k])
        except HDF5_ERRORS as error:
            raise unreadable(self.path, error, REMEDY) from None

    def _fill(self, rows: NDArray[np.int64], out: NDArray[np.generic], offset: int) -> None:
        assert self._descriptor is not None
        buffer = out.reshape(-1).view(np.uint8).data
        while buffer:
            try:
                num_read = os.preadv(self._descriptor, [buffer], offset)
            except OSError as error:
                raise unreadable(self.path, error, REMEDY) from None
            if num_read == 0:
                raise UserError(
                    f"{self.path}: ends at byte {offset}, before the features that it lists; "
                    f"{REMEDY}"
                )
            buffer, offset = buffer[num_read:], offset + num_read
        self._check(rows, out)

    def _check(self, rows: NDArray[np.int64], maps: NDArray[np.generic]) -> None:
        for row, values in zip(rows.tolist(), maps, strict=True):
            if self._checked[row] or self._missing[row]:
                continue
            if self.checksums is not None and zlib.crc32(values.data) != self.checksums[row]:
                raise UserError(
                    f"{self.path}: the features of image {self._image(row)} are damaged (other "
                    f"checksum); {REMEDY}"
                )
            if self._fill_value is not None and not (values != self._fill_value).any():
                self._missing[row] = True
                continue
            if not all_finite(values):
                raise UserError(
                    f"{self.path}: the features of image {self._image(row)} are not finite (NaN or "
                    f"infinity); {REMEDY}"
                )
            self._checked[row] = True

    def _image(self, row: int) -> int:
        return row if self.image_idxs is None else int(self.image_idxs[row])


def _release(descriptor: int | None, dataset: h5py.Dataset | None) -> None:
    if descriptor is not None:
        os.close(descriptor)
    if dataset is not None and dataset:  # a dataset is false after its file was closed
        dataset.file.close()


def all_finite(values: NDArray[np.generic]) -> bool:
    """Whether no value is NaN or infinite."""
    if values.dtype == np.float16:
        # Compare bits, which needs no copy: infinity and NaN start at 0x7C00, negative at 0xFC00.
        positive, negative = (values.view(dtype).max(initial=0) for dtype in (np.int16, np.uint16))
        return bool(positive < 0x7C00 and negative < 0xFC00)
    return bool(np.isfinite(values).all())


def create_rows(
    file: h5py.File, name: str, shape: tuple[int, ...], dtype: str, *, one_chunk_a_row: bool
) -> None:
    """Create a dataset whose storage is allocated at once.

    HDF5's metadata then does not change while rows are written, so that a killed process leaves a
    file that can be opened.
    """
    import h5py

    layout = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    layout.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    layout.set_obj_track_times(False)  # equal features give equal bytes at any time
    if one_chunk_a_row:
        layout.set_chunk((1, *shape[1:]))
        layout.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    h5_type = h5py.h5t.py_create(np.dtype(dtype), logical=True)
    h5py.h5d.create(file.id, name.encode(), h5_type, h5py.h5s.create_simple(shape), layout)


def row_offsets(dataset: h5py.Dataset) -> NDArray[np.int64] | None:
    """Byte offsets (N,) of the rows in the file.

    None if rows are stored differently than in memory, or some are not stored.

    Raises
    ------
    UserError
        If HDF5's index gives impossible places: outside of the dataset or the file, of another
        size, listed twice, or overlapping.
    """
    count = dataset.shape[0]
    row_bytes = dataset.dtype.itemsize * math.prod(dataset.shape[1:])
    addressable = (
        dataset.dtype.isnative and not dataset.file.userblock_size and hasattr(os, "preadv")
    )
    if not addressable or count == 0:
        return None
    file_size = Path(dataset.file.filename).stat().st_size
    if dataset.chunks is None:
        first = dataset.id.get_offset()  # None if this file does not store it contiguously
        if first is None:
            return None
        if not _SUPERBLOCK <= first <= file_size - count * row_bytes:
            raise _impossible_index(dataset, f"all rows begin at byte {first}")
        return np.arange(first, first + count * row_bytes, row_bytes, dtype=np.int64)
    is_filtered = dataset.id.get_create_plist().get_nfilters() > 0
    if dataset.chunks != (1, *dataset.shape[1:]) or is_filtered:
        return None
    # Rows that are not stored read as fill values.
    if not hasattr(dataset.id, "chunk_iter") or count * row_bytes > file_size:
        return None
    # No number of the index is used before it is checked.
    index: list[h5py.h5d.StoreInfo] = []
    dataset.id.chunk_iter(index.append)
    chunks = np.array(
        [(*place, mask, offset or 0, size) for place, mask, offset, size in index], np.uint64
    ).reshape(-1, dataset.ndim + 3)
    rows, starts = chunks[:, 0], chunks[:, -2]
    if len(chunks) < count or not starts.all():
        return None
    impossible = (rows >= count) | chunks[:, 1:-2].any(1) | (chunks[:, -1] != row_bytes)
    impossible |= (starts < _SUPERBLOCK) | (starts > file_size - row_bytes)
    if impossible.any():
        row, *_, start, size = chunks[impossible.argmax()].tolist()
        raise _impossible_index(dataset, f"row {row} has {size} bytes from byte {start} on")
    if (np.diff(np.sort(starts)) < row_bytes).any():
        raise _impossible_index(dataset, "rows lie over each other")
    offsets = np.full(count, -1, np.int64)
    offsets[rows.astype(np.int64)] = starts.astype(np.int64)
    if len(chunks) > count or offsets.min() < 0:
        raise _impossible_index(dataset, "a row is listed twice")
    return offsets


def _impossible_index(dataset: h5py.Dataset, problem: str) -> UserError:
    return UserError(f"{dataset.file.filename}: its index is damaged ({problem}); {REMEDY}")
