"""Where a split's features are held: on the device, in memory, or in their HDF5 file.

Everything above reads features from a ``FeatureStore`` and does not know which.
"""

from __future__ import annotations

import hashlib
import time
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from filmvqa.data.buffers import Buffers
from filmvqa.data.feature_file import FeatureFile, open_feature_file, unreadable
from filmvqa.devices import to_device
from filmvqa.disk import format_bytes
from filmvqa.files import sha256_of_file
from filmvqa.memory import free_memory
from filmvqa.settings import Placement, checked

#: Share of the free memory that resident features may take.
RESIDENT_SHARE = 0.6
#: Read at a time while a resident store is filled.
BLOCK_BYTES = 64 * 2**20


class FeatureStore:
    """Features of one split: ``num_images`` maps of ``shape`` (C, H, W), read on ``device``.

    ``close`` releases the file; a resident store has released it once it is filled.

    Attributes
    ----------
    placement : str
        Where the features are held: ``device``, ``memory`` or ``stream``.
    description : str
        Size, placement and the reason for it, to print.
    image_names_sha256 : str or None
        Hash of the image names in index order; None for film's files.
    feature_spec : dict or None
        How the features were made (``FEATURE_SPEC``); None for film's files.
    prefetch : bool
        Whether reading takes long enough to be done ahead of need.
    bytes_read, seconds : int, float
        What was read from the file, and the time that it took.
    """

    def __init__(
        self, file: FeatureFile, device: torch.device, placement: str, reason: str
    ) -> None:
        self.num_images = len(file.rows)
        channels, height, width = file.rows.shape[1:]
        self.shape = (channels, height, width)
        self.image_names_sha256, self.feature_spec = file.image_names_sha256, file.spec
        self.device, self.placement = device, placement
        self.num_bytes = file.rows.num_bytes
        self.description = f"{format_bytes(self.num_bytes)} of features: {placement} ({reason})"
        self.prefetch = placement == "stream" or (placement == "memory" and device.type != "cpu")
        self.bytes_read, self.seconds = 0, 0.0
        self._rows, self._checksums = file.rows, file.checksums
        self._buffers = Buffers()
        self._resident = None
        if placement != "stream":
            self._resident = self._load()
            self.close()

    def close(self) -> None:
        """Release the file and the threads that read it; a store that streams cannot be read
        afterwards."""
        self._rows.close()

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @cached_property
    def sha256(self) -> str:
        """Identifies the features: a hash of shape, type and the checksums of all images, or of the
        whole file where it has no checksums."""
        if self._checksums is None:
            return sha256_of_file(self._rows.path)
        head = f"{self._rows.shape} {self._rows.dtype}".encode()
        return hashlib.sha256(head + self._checksums.tobytes()).hexdigest()

    def read(
        self, images: Tensor, memory_format: torch.memory_format = torch.contiguous_format
    ) -> Tensor:
        """Features (U, C, H, W) on the device, in a memory format, of sorted distinct image indices
        (U,) on the host."""
        resident = self._resident
        if resident is not None and resident.device.type == self.device.type:
            return resident[to_device(images, self.device)].contiguous(memory_format=memory_format)
        if self.device.type != "cpu":
            # torch reuses pinned memory by itself, once the device has read it.
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
        on_device = self.placement == "device" and self.device.type != "cpu"
        if on_device:
            resident = torch.empty((count, *self.shape), dtype=rows.dtype, device=self.device)
            staging = rows.empty(min(block, count), pin=pin)
        else:
            resident = rows.empty(count, pin=pin)
        unit = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "leave": False}
        with tqdm(total=rows.num_bytes, desc="features", delay=2, **unit) as bar:
            for first in range(0, count, block):
                last = min(first + block, count)
                out = staging[: last - first] if on_device else resident[first:last]
                self._fill(np.arange(first, last), out)
                if on_device:
                    resident[first:last] = out  # waits: the next block is read into ``staging``
                bar.update(out.nbytes)
        return resident


def open_feature_store(
    path: str | Path, device: torch.device | str = "cpu", placement: str = "auto"
) -> FeatureStore:
    """Open a feature file and hold its features where there is room.

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
    checked(placement, Placement, "store")
    file = open_feature_file(path)
    reason = "as requested"
    if placement == "auto":
        placement, reason = _choose_placement(file.rows.num_bytes, device)
    try:
        return FeatureStore(file, device, placement, reason)
    except OSError as error:
        file.rows.close()
        raise unreadable(Path(path), error) from None
    except BaseException:
        file.rows.close()
        raise


def _choose_placement(size: int, device: torch.device) -> tuple[str, str]:
    """The placement of ``size`` bytes, and the reason for it."""
    host_free = free_memory()
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else host_free
    if size < RESIDENT_SHARE * free:
        return "device", f"{free / 2**30:.1f} GiB free there"
    if device.type == "cuda" and size < RESIDENT_SHARE * host_free:
        return "memory", f"{free / 2**30:.1f} GiB free on the device is too little"
    return "stream", f"{host_free / 2**30:.1f} GiB free in memory is too little"
