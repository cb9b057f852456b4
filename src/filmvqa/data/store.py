"""Where a split's features live: on the device, in memory, or in their HDF5 file.

Everything above reads rows from a ``FeatureStore`` and does not know which.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from filmvqa.data.buffers import Buffers
from filmvqa.data.hdf5 import HDF5_ERRORS
from filmvqa.data.rows import DatasetRows
from filmvqa.devices import to_device
from filmvqa.disk import format_bytes
from filmvqa.errors import UserError, one_line
from filmvqa.files import sha256_of_file
from filmvqa.memory import free_memory

PLACEMENTS = ("auto", "device", "memory", "stream")
#: Share of the free memory that resident features may take.
RESIDENT_SHARE = 0.6
#: Read at a time while a resident store is filled.
BLOCK_BYTES = 64 * 2**20
_MAKE = "make it with scripts/extract_features.py"
#: Of feature files.
FORMAT = "filmvqa-features-2"
CHECKSUMS = "row_crc32"
#: What a feature file says of how it was made, beside ``format`` and ``split``.
MADE_BY = (
    "backbone", "weights", "weights_sha256", "stage", "image_size", "mean", "std", "precision",
)  # fmt: skip


class FeatureStore:
    """Features of one split: ``num_images`` maps of ``shape`` (C, H, W), read on ``device``.

    ``names_sha256`` hashes the image names and ``made`` says how the features were made (both None
    for film's files); ``kind`` is where they live, ``where`` says so in words with the reason;
    ``ahead``: reading takes long enough to be done ahead of need. ``bytes_read`` and ``seconds``
    measure what was read from the file.
    """

    def __init__(
        self,
        rows: DatasetRows,
        device: torch.device,
        kind: str,
        reason: str,
        attributes: Mapping[str, Any],
        checksums: NDArray[np.uint32] | None,
    ) -> None:
        self.num_images = len(rows)
        channels, height, width = rows.shape[1:]
        self.shape = (channels, height, width)
        self.names_sha256: str | None = attributes.get("image_names_sha256")
        self.made: dict[str, Any] | None = None
        if "format" in attributes:
            self.made = {name: np.array(attributes[name]).tolist() for name in MADE_BY}
        self.device, self.kind = device, kind
        self.num_bytes = rows.num_bytes
        self.where = f"{format_bytes(rows.num_bytes)} of features: {kind} ({reason})"
        self.ahead = kind == "stream" or (kind == "memory" and device.type != "cpu")
        self.bytes_read, self.seconds = 0, 0.0
        self._rows, self._checksums = rows, checksums
        self._buffers = Buffers()
        self._resident = None if kind == "stream" else self._load()

    @cached_property
    def sha256(self) -> str:
        """What tells these features from others: a hash of shape, type and the checksums of all
        images, or of the whole file where it has no checksums."""
        if self._checksums is None:
            return sha256_of_file(self._rows.path)
        head = f"{self._rows.shape} {self._rows.dtype}".encode()
        return hashlib.sha256(head + self._checksums.tobytes()).hexdigest()

    def read(
        self, images: Tensor, memory_format: torch.memory_format = torch.contiguous_format
    ) -> Tensor:
        """Features (U, C, H, W) on the device, in a memory format, of sorted distinct image indices
        (U,), which lie on the host."""
        resident = self._resident
        if resident is not None and resident.device.type == self.device.type:
            return resident[to_device(images, self.device)].contiguous(memory_format=memory_format)
        if self.device.type != "cpu":
            # torch lends pinned memory again itself, once the device has read it.
            out = self._rows.empty(len(images), pin=self.device.type == "cuda")
            if resident is None:
                self._fill(images.numpy(), out)
            else:
                torch.index_select(resident, 0, images, out=out)
            return out.to(self.device, non_blocking=True).contiguous(memory_format=memory_format)
        shape = (len(images), *self.shape)
        out = self._buffers.empty(shape, self._rows.dtype)
        self._fill(images.numpy(), out)
        if out.is_contiguous(memory_format=memory_format):
            return out
        return self._buffers.empty(shape, out.dtype, memory_format).copy_(out)

    @property
    def rate(self) -> float:
        """Bytes a second at which the file was read so far; 0 before it was."""
        return self.bytes_read / self.seconds if self.seconds else 0.0

    def _fill(self, rows: NDArray[np.int64], out: Tensor) -> None:
        started = time.monotonic()
        self._rows.read(rows, out)
        self.seconds += time.monotonic() - started
        self.bytes_read += out.nbytes

    def _load(self) -> Tensor:
        """All rows on the device, or in memory, pinned if the device is another."""
        rows, pin = self._rows, self.device.type == "cuda"
        count, block = len(rows), max(1, BLOCK_BYTES * len(rows) // max(1, rows.num_bytes))
        on_device = self.kind == "device" and self.device.type != "cpu"
        if on_device:
            resident = torch.empty((count, *self.shape), dtype=rows.dtype, device=self.device)
            staged = rows.empty(min(block, count), pin=pin)
        else:
            resident = rows.empty(count, pin=pin)
        unit = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "leave": False}
        with tqdm(total=rows.num_bytes, desc="features", delay=2, **unit) as bar:
            for first in range(0, count, block):
                last = min(first + block, count)
                out = staged[: last - first] if on_device else resident[first:last]
                self._fill(np.arange(first, last), out)
                if on_device:
                    resident[first:last] = out  # waits: the next block comes into the same place
                bar.update(out.nbytes)
        return resident


def open_feature_store(
    path: str | Path, device: torch.device | str = "cpu", placement: str = "auto"
) -> FeatureStore:
    """Open a feature file where there is room for it.

    Parameters
    ----------
    placement
        ``device``, ``memory`` or ``stream``; ``auto`` takes the first that has room.

    Raises
    ------
    UserError
        For a file that is missing, unreadable or unfinished.
    """
    device = torch.device(device)
    if placement not in PLACEMENTS:
        raise UserError(f"store={placement!r}; choose from {', '.join(PLACEMENTS)}")
    path = Path(path)
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {_MAKE}") from None
    except OSError as error:
        raise _unreadable(path, error) from None
    try:
        dataset, attributes, checksums = _contents(path, file)
        rows = DatasetRows(dataset, checksums)
    except HDF5_ERRORS as error:
        raise _unreadable(path, error) from None
    kind, reason = (
        _choose(rows.num_bytes, device) if placement == "auto" else (placement, "as told")
    )
    try:
        return FeatureStore(rows, device, kind, reason, attributes, checksums)
    except OSError as error:
        raise _unreadable(path, error) from None


def _unreadable(path: Path, error: Exception) -> UserError:
    return UserError(f"{path}: not readable ({one_line(error)}); delete it and {_MAKE}")


def _contents(
    path: Path, file: h5py.File
) -> tuple[h5py.Dataset, dict[str, Any], NDArray[np.uint32] | None]:
    """The features of a file, its attributes, and the checksums of its rows if it has any."""
    dataset, attributes = file.get("features"), dict(file.attrs)
    if not isinstance(dataset, h5py.Dataset):
        raise UserError(f"{path}: has no dataset 'features'; delete it and {_MAKE}")
    fits = dataset.ndim == 4 and min(dataset.shape) > 0
    if not fits or dataset.dtype not in (np.float16, np.float32, np.uint8):
        raise UserError(
            f"{path}: features of shape {dataset.shape} and type {dataset.dtype}; need "
            f"(N, C, H, W) of float16, float32 or uint8; delete it and {_MAKE}"
        )
    done = attributes.get("num_done", dataset.shape[0])
    if done != dataset.shape[0]:
        raise UserError(f"{path}: only {done} of {dataset.shape[0]} images done; {_MAKE}")
    if "format" not in attributes:  # film's
        return dataset, attributes, None
    wanted = (*MADE_BY, "image_names_sha256", "num_done")
    if lacking := [name for name in wanted if name not in attributes]:
        raise UserError(f"{path}: lacks the attribute {lacking[0]!r}; delete it and {_MAKE}")
    checksums = file.get(CHECKSUMS)
    if checksums is None:
        if attributes["format"] == FORMAT:
            raise UserError(f"{path}: has no dataset {CHECKSUMS!r}; delete it and {_MAKE}")
        return dataset, attributes, None  # the format before had none
    if checksums.shape != dataset.shape[:1] or checksums.dtype != np.uint32:
        raise UserError(f"{path}: {CHECKSUMS!r} does not fit 'features'; delete it and {_MAKE}")
    return dataset, attributes, checksums[:]


def _choose(size: int, device: torch.device) -> tuple[str, str]:
    in_memory = free_memory()
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else in_memory
    if size < RESIDENT_SHARE * free:
        return "device", f"{free / 2**30:.1f} GiB free there"
    if device.type == "cuda" and size < RESIDENT_SHARE * in_memory:
        return "memory", f"{free / 2**30:.1f} GiB free on the device is too little"
    return "stream", f"{in_memory / 2**30:.1f} GiB free in memory is too little"
