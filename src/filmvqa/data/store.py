"""Where a split's features live: on the device, in memory, or in their HDF5 file.

Everything above reads rows from a ``FeatureStore`` and does not know which.
"""

from __future__ import annotations

import time
from pathlib import Path

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from filmvqa.data.rows import DatasetRows
from filmvqa.device import free_memory, send
from filmvqa.errors import UserError

PLACEMENTS = ("auto", "device", "memory", "stream")
#: Share of the free memory that resident features may take.
RESIDENT_SHARE = 0.6
#: Read at a time while a resident store is filled.
BLOCK_BYTES = 64 * 2**20
_MAKE = "make it with scripts/extract_features.py"


class FeatureStore:
    """Features of one split: ``num_images`` maps of ``shape`` (C, H, W), read on ``device``.

    ``names_sha256`` hashes the image names (None for film's files); ``kind`` is where they live,
    ``where`` says so in words with the reason; ``ahead``: reading takes long enough to be done
    ahead of need. ``bytes_read`` and ``seconds`` measure what was read from the file.
    """

    def __init__(
        self, rows: DatasetRows, device: torch.device, kind: str, reason: str, names: str | None
    ) -> None:
        self.num_images = len(rows)
        channels, height, width = rows.shape[1:]
        self.shape = (channels, height, width)
        self.names_sha256, self.device, self.kind = names, device, kind
        self.where = f"{rows.num_bytes / 2**30:.2f} GiB of features: {kind} ({reason})"
        self.ahead = kind == "stream" or (kind == "memory" and device.type != "cpu")
        self.bytes_read, self.seconds = 0, 0.0
        self._rows = rows
        self._resident = None if kind == "stream" else self._load()

    def read(self, images: Tensor) -> Tensor:
        """Features (U, C, H, W) on the device of sorted distinct image indices (U,), which lie on
        the host."""
        resident = self._resident
        if resident is not None and resident.device.type == self.device.type:
            return resident[send(images, self.device)]
        out = self._rows.empty(len(images), pin=self.device.type == "cuda")
        if resident is None:
            self._fill(images.numpy(), out)
        else:
            torch.index_select(resident, 0, images, out=out)
        return out.to(self.device, non_blocking=True)

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
    dataset = _open_dataset(Path(path))
    names = dataset.file.attrs.get("image_names_sha256")
    rows = DatasetRows(dataset)
    kind, reason = (
        _choose(rows.num_bytes, device) if placement == "auto" else (placement, "as told")
    )
    try:
        return FeatureStore(rows, device, kind, reason, names)
    except OSError as error:
        raise UserError(f"{path}: not readable ({error}); delete it and {_MAKE}") from None


def _open_dataset(path: Path) -> h5py.Dataset:
    try:
        dataset = h5py.File(path, "r")["features"]
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {_MAKE}") from None
    except (OSError, KeyError) as error:
        raise UserError(f"{path}: not readable HDF5 ({error}); delete it and {_MAKE}") from None
    done = dataset.file.attrs.get("num_done", dataset.shape[0])
    if dataset.ndim != 4 or dataset.dtype not in (np.float16, np.float32, np.uint8):
        raise UserError(
            f"{path}: features of shape {dataset.shape} and type {dataset.dtype}; need "
            f"(N, C, H, W) of float16, float32 or uint8; delete it and {_MAKE}"
        )
    if done != dataset.shape[0]:
        raise UserError(f"{path}: only {done} of {dataset.shape[0]} images done; {_MAKE}")
    return dataset


def _choose(size: int, device: torch.device) -> tuple[str, str]:
    in_memory = free_memory()
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else in_memory
    if size < RESIDENT_SHARE * free:
        return "device", f"{free / 2**30:.1f} GiB free there"
    if device.type == "cuda" and size < RESIDENT_SHARE * in_memory:
        return "memory", f"{free / 2**30:.1f} GiB free on the device is too little"
    return "stream", f"{in_memory / 2**30:.1f} GiB free in memory is too little"
