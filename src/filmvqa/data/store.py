"""Where a split's features live: on the device, in memory, or in their HDF5 file.

Everything above reads rows from a ``FeatureStore`` and does not know which.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from pathlib import Path

import h5py
import numpy as np
import torch
from torch import Tensor

from filmvqa.errors import UserError

PLACEMENTS = ("auto", "device", "memory", "stream")
#: Share of the free memory that resident features may take.
RESIDENT_SHARE = 0.6
_MAKE = "make it with scripts/extract_features.py"


class FeatureStore(ABC):
    """Features of one split: ``num_images`` maps of ``shape`` (C, H, W).

    ``names_sha256`` hashes the image names (None for film's files); ``where`` says in words
    where the features are and why.
    """

    num_images: int
    shape: tuple[int, int, int]
    names_sha256: str | None
    where: str
    #: Whether reading takes long enough to be done ahead of need.
    streams = False

    @abstractmethod
    def read(self, images: Tensor) -> Tensor:
        """Features (U, C, H, W) on the device of sorted distinct image indices (U,)."""


class _Resident(FeatureStore):
    def __init__(self, features: Tensor, device: torch.device) -> None:
        self._features, self._device = features, device

    def read(self, images: Tensor) -> Tensor:
        rows = self._features[images.to(self._features.device)]
        return rows.to(self._device, non_blocking=True)


class _Streamed(FeatureStore):
    streams = True

    def __init__(self, dataset: h5py.Dataset, device: torch.device) -> None:
        self._dataset, self._device = dataset, device

    def read(self, images: Tensor) -> Tensor:
        rows = images.tolist()
        out = np.empty((len(rows), *self.shape), self._dataset.dtype)
        # One read a row: HDF5's own point selection is slower by an order of magnitude.
        for k, row in enumerate(rows):
            self._dataset.read_direct(out, np.s_[row], np.s_[k])
        return torch.from_numpy(out).to(self._device)


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
    size = dataset.size * dataset.dtype.itemsize
    if placement == "auto":
        placement, reason = _choose(size, device)
    else:
        reason = "as told"
    store: FeatureStore
    if placement == "stream":
        store = _Streamed(dataset, device)
    else:
        features = torch.from_numpy(dataset[:])
        if placement == "device":
            features = features.to(device)
        elif device.type == "cuda":
            features = features.pin_memory()
        store = _Resident(features, device)
    store.num_images, store.shape = dataset.shape[0], dataset.shape[1:]
    store.names_sha256 = dataset.file.attrs.get("image_names_sha256")
    store.where = f"{size / 2**30:.2f} GiB of features: {placement} ({reason})"
    return store


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
    free_memory = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    free = torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else free_memory
    if size < RESIDENT_SHARE * free:
        return "device", f"{free / 2**30:.1f} GiB free there"
    if device.type == "cuda" and size < RESIDENT_SHARE * free_memory:
        return "memory", f"{free / 2**30:.1f} GiB free on the device is too little"
    return "stream", f"{free_memory / 2**30:.1f} GiB free in memory is too little"
