"""Hold a split's features on the device, in memory, or in their HDF5 file.

Callers read features from a ``FeatureStore`` without knowing where they are held.
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

from filmvqa.features.buffers import Buffers
from filmvqa.features.feature_file import FeatureFile, open_feature_file
from filmvqa.features.shared_memory import shared_on_node
from filmvqa.settings.typed import Placement, checked
from filmvqa.system import processes
from filmvqa.system.devices import to_device
from filmvqa.system.disk import format_bytes
from filmvqa.system.files import sha256_of_file
from filmvqa.system.memory import free_memory

#: The share of the free memory that resident features may take.
RESIDENT_SHARE = 0.6
#: How much is read at a time to fill a resident store.
BLOCK_BYTES = 64 * 2**20


class FeatureStore:
    """The features of a split: ``num_images`` maps of ``shape`` (C, H, W), read onto ``device``.

    ``close`` releases the file, as does the end of the last reference to the store. A resident
    store releases it as soon as it is filled.

    Attributes
    ----------
    placement : str
        Where the features are held: ``device``, ``memory`` or ``stream``.
    description : str
        Size, placement, and the reason for the placement.
    image_idxs : ndarray
        (N,) indices of the images that have features, sorted.
    image_name_crc32 : ndarray or None
        (N,) CRC-32 of the names of these images; None if the file does not have them.
    image_names_sha256 : str or None
        Hash of the image names in index order; None for film's files.
    feature_spec : dict or None
        How the features were made (``FEATURE_SPEC``); None for film's files.
    prefetch : bool
        Whether reads take so long that batches should be read ahead.
    bytes_read, seconds : int, float
        How much was read from the file, and in what time.
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
        self.image_idxs = np.arange(self.num_images, dtype=np.int32)
        self._image_idxs: Tensor | None = None  # None: image i is row i
        if file.rows.image_idxs is not None:
            self.image_idxs = file.rows.image_idxs
            self._image_idxs = torch.from_numpy(self.image_idxs.astype(np.int64))
        self.image_name_crc32 = file.name_checksums
        self._rows = file.rows
        self._buffers = Buffers()
        self._resident = None
        if placement != "stream":
            self._resident = self._load()
            self.close()

    def close(self) -> None:
        """Release the file and its reader threads; a streaming store cannot be read afterwards."""
        self._rows.close()

    def check_written(self, images: Tensor) -> None:
        """Raise ``UserError`` if features of sorted distinct images (U,) were never written.

        In some files this is known only after all features were read; then ``read`` raises it.
        """
        rows = self._row_of_image(images).numpy()
        if count := min(len(rows), self._rows.sample):
            chosen = np.unique(np.linspace(len(rows) - 1, 0, count).astype(np.int64))
            self.read(images[torch.from_numpy(chosen)])
        self._rows.refuse_missing(rows)

    def release(self) -> None:
        """Free the memory of batches that are no longer referenced."""
        self._buffers.release()

    def __enter__(self) -> FeatureStore:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    @cached_property
    def sha256(self) -> str:
        """Hash that identifies the features.

        It covers shape, type, the checksums of all images, and image indices that are not 0 to N-1.
        Without checksums, it is the hash of the whole file.
        """
        if self._rows.checksums is None:
            return sha256_of_file(self._rows.path)
        head = f"{self._rows.shape} {self._rows.dtype}".encode()
        indices = b"" if self._image_idxs is None else self.image_idxs.tobytes()
        return hashlib.sha256(head + self._rows.checksums.tobytes() + indices).hexdigest()

    def read(
        self, images: Tensor, memory_format: torch.memory_format = torch.contiguous_format
    ) -> Tensor:
        """Read features (U, C, H, W) of images onto the device.

        ``images`` (U,) are sorted distinct indices on the host.

        Raises
        ------
        ValueError
            If an image has no features here.
        UserError
            If features are damaged or were never written.
        """
        rows = self._row_of_image(images)
        self._rows.refuse_missing(rows.numpy())
        resident = self._resident
        if resident is not None and resident.device.type == self.device.type:
            return resident[to_device(rows, self.device)].contiguous(memory_format=memory_format)
        if self.device.type != "cpu":
            # torch reuses pinned memory by itself after the device has copied it.
            out = self._rows.empty(len(rows), pin=self.device.type == "cuda")
            if resident is None:
                self._fill(rows.numpy(), out)
            else:
                torch.index_select(resident, 0, rows, out=out)
            return out.to(self.device, non_blocking=True).contiguous(memory_format=memory_format)
        shape = (len(rows), *self.shape)
        out = self._buffers.empty(shape, self._rows.dtype)
        self._fill(rows.numpy(), out)
        if out.is_contiguous(memory_format=memory_format):
            return out
        return self._buffers.empty(shape, out.dtype, memory_format).copy_(out)

    def _row_of_image(self, images: Tensor) -> Tensor:
        """Convert sorted image indices (U,) to rows (U,) of the file."""
        rows = images
        if self._image_idxs is not None:
            rows = torch.searchsorted(self._image_idxs, images).clamp_(max=self.num_images - 1)
            is_there = bool((self._image_idxs[rows] == images).all())
        else:
            is_there = not len(images) or bool((images[0] >= 0) and (images[-1] < self.num_images))
        if not is_there:
            raise ValueError(f"{self._rows.path}: has no features of some of the images {images}")
        return rows

    @property
    def rate(self) -> float:
        """The rate of reading so far, in bytes per second; 0 before the first read."""
        return self.bytes_read / self.seconds if self.seconds else 0.0

    def _fill(self, rows: NDArray[np.int64], out: Tensor) -> None:
        self._read_rows(rows, out)
        self._rows.refuse_missing(rows)

    def _read_rows(self, rows: NDArray[np.int64], out: Tensor) -> None:
        started = time.monotonic()
        self._rows.read(rows, out)
        self.seconds += time.monotonic() - started
        self.bytes_read += out.nbytes

    def _load(self) -> Tensor:
        """Load all rows onto the device, or into memory that the machine's processes share."""
        shape, dtype = (len(self._rows), *self.shape), self._rows.dtype
        if self.placement == "device" and self.device.type != "cpu":
            resident = torch.empty(shape, dtype=dtype, device=self.device)
            self._fill_all(resident)
            return resident
        return shared_on_node(shape, dtype, self._fill_all)

    def _fill_all(self, resident: Tensor) -> None:
        """Read all rows into a tensor on the device or the host.

        torch rounds pinned memory up to a power of two, so only one block at a time is pinned.
        """
        rows = self._rows
        count, block = len(rows), max(1, BLOCK_BYTES * len(rows) // max(1, rows.num_bytes))
        on_device = resident.device.type != "cpu"
        if on_device:
            staging = rows.empty(min(block, count), pin=self.device.type == "cuda")
        unit = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "leave": False}
        with tqdm(total=rows.num_bytes, desc="features", delay=2, **unit) as bar:
            for first in range(0, count, block):
                last = min(first + block, count)
                out = staging[: last - first] if on_device else resident[first:last]
                self._read_rows(np.arange(first, last), out)
                if on_device:
                    resident[first:last] = (
                        out  # synchronous, since the next block overwrites ``staging``
                    )
                bar.update(out.nbytes)


def open_feature_store(
    path: str | Path, device: torch.device | str = "cpu", placement: str = "auto"
) -> FeatureStore:
    """Open a feature file, and hold its features where there is room.

    Parameters
    ----------
    placement
        ``device``, ``memory`` or ``stream``; ``auto`` takes the first that has room.

    Raises
    ------
    UserError
        If the file is missing, unreadable or unfinished.
    """
    device = torch.device(device)
    checked(placement, Placement, "store")
    file = open_feature_file(path)
    reason = "as requested"
    try:
        if placement == "auto":
            is_gpu = device.type == "cuda"
            free = free_memory(), torch.cuda.mem_get_info(device)[0] if is_gpu else None
            # All processes of a machine choose the same placement: one copy in its memory, or a
            # copy on each process's device.
            on_node = processes.gathered_on_node(free)
            placement, reason = choose_placement(
                file.rows.num_bytes,
                host_free=on_node[0][0],
                device_free=min(of_device for _, of_device in on_node) if is_gpu else None,
            )
        return FeatureStore(file, device, placement, reason)
    except BaseException:
        file.rows.close()
        raise


def choose_placement(size: int, *, host_free: int, device_free: int | None) -> tuple[str, str]:
    """Choose the placement of ``size`` bytes of features, and give the reason.

    Resident features take exactly their size, which may be ``RESIDENT_SHARE`` of the free memory.

    Parameters
    ----------
    host_free, device_free
        Free bytes in memory and on the device; None if the device uses the host's memory.
    """
    free = host_free if device_free is None else device_free
    if size < RESIDENT_SHARE * free:
        return "device", f"{free / 2**30:.1f} GiB free there"
    if device_free is not None and size < RESIDENT_SHARE * host_free:
        return "memory", f"{free / 2**30:.1f} GiB free on the device is too little"
    return "stream", f"{host_free / 2**30:.1f} GiB free in memory is too little"
