"""The HDF5 file of a split's features: its format, written and read."""

from __future__ import annotations

import os
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from filmvqa.data.hdf5 import HDF5_ERRORS
from filmvqa.data.rows import DatasetRows, all_finite, create_rows, row_offsets
from filmvqa.disk import DISK_FULL_ERRNOS, disk_full_error
from filmvqa.errors import UserError, one_line, warn

FORMAT = "filmvqa-features-2"
#: The dataset of maps, (N, C, H, W), and that of their CRC-32, (N,).
FEATURES, CHECKSUMS = "features", "row_crc32"
#: Attributes that say how features were made, beside ``format`` and ``split``.
FEATURE_SPEC = (
    "backbone", "weights", "weights_sha256", "stage", "image_size", "mean", "std", "precision",
)  # fmt: skip
_MAKE = "make it with scripts/extract_features.py"


@dataclass(frozen=True)
class FeatureFile:
    """A complete feature file that is open for reading.

    ``checksums`` (N,) are None for files that have none; ``image_names_sha256`` and ``spec``, how
    the features were made, are None for film's files.
    """

    rows: DatasetRows
    checksums: NDArray[np.uint32] | None
    image_names_sha256: str | None
    spec: dict[str, Any] | None


def open_feature_file(path: str | Path) -> FeatureFile:
    """Open a feature file that this project or film wrote.

    Raises
    ------
    UserError
        If it is missing, unreadable, unfinished or of another format.
    """
    path = Path(path)
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; {_MAKE}") from None
    except OSError as error:
        raise unreadable(path, error) from None
    try:
        dataset, attributes, checksums = _checked_contents(path, file)
        spec = None
        if "format" in attributes:
            spec = {name: np.array(attributes[name]).tolist() for name in FEATURE_SPEC}
        rows = DatasetRows(dataset, checksums)
    except UserError:
        file.close()
        raise
    except HDF5_ERRORS as error:
        file.close()
        raise unreadable(path, error) from None
    return FeatureFile(rows, checksums, attributes.get("image_names_sha256"), spec)


def unreadable(path: Path, error: Exception) -> UserError:
    """The error that a feature file cannot be read."""
    return UserError(f"{path}: not readable ({one_line(error)}); delete it and {_MAKE}")


def _checked_contents(
    path: Path, file: h5py.File
) -> tuple[h5py.Dataset, dict[str, Any], NDArray[np.uint32] | None]:
    """The features of a file, its attributes, and the checksums of its rows if it has any."""
    dataset, attributes = file.get(FEATURES), dict(file.attrs)
    if not isinstance(dataset, h5py.Dataset):
        raise UserError(f"{path}: has no dataset {FEATURES!r}; delete it and {_MAKE}")
    has_shape = dataset.ndim == 4 and min(dataset.shape) > 0
    if not has_shape or dataset.dtype not in (np.float16, np.float32, np.uint8):
        raise UserError(
            f"{path}: features of shape {dataset.shape} and type {dataset.dtype}; need "
            f"(N, C, H, W) of float16, float32 or uint8; delete it and {_MAKE}"
        )
    num_done = attributes.get("num_done", dataset.shape[0])
    if num_done != dataset.shape[0]:
        raise UserError(f"{path}: only {num_done} of {dataset.shape[0]} images done; {_MAKE}")
    if "format" not in attributes:  # film's
        return dataset, attributes, None
    required = (*FEATURE_SPEC, "image_names_sha256", "num_done")
    if missing := [name for name in required if name not in attributes]:
        raise UserError(f"{path}: lacks the attribute {missing[0]!r}; delete it and {_MAKE}")
    checksums = file.get(CHECKSUMS)
    if checksums is None:
        if attributes["format"] == FORMAT:
            raise UserError(f"{path}: has no dataset {CHECKSUMS!r}; delete it and {_MAKE}")
        return dataset, attributes, None  # the format before had none
    if checksums.shape != dataset.shape[:1] or checksums.dtype != np.uint32:
        raise UserError(f"{path}: {CHECKSUMS!r} does not fit {FEATURES!r}; delete it and {_MAKE}")
    return dataset, attributes, checksums[:]


def recorded_precision(path: Path) -> str | None:
    """The precision in which the features of a file were computed, None if there is no such file
    or it does not say."""
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs["precision"])
    except (OSError, KeyError):
        return None


def check_made_alike(
    path: Path, attributes: Mapping[str, Any], shape: tuple[int, int, int, int]
) -> None:
    """Raise ``UserError`` unless a feature file has these attributes and this shape."""
    try:
        with h5py.File(path, "r") as file:
            changed = _changed_attribute(file, attributes)
            if changed is None and file[FEATURES].shape != shape:
                changed = "shape"
    except HDF5_ERRORS as error:
        raise UserError(
            f"{path}: not a readable HDF5 file ({one_line(error)}); delete it"
        ) from None
    if changed is not None:
        raise UserError(
            f"{path}: holds features of another {changed}; delete it to make them again"
        )


def resume_or_create(
    path: Path, attributes: Mapping[str, Any], shape: tuple[int, int, int, int], dtype: str
) -> h5py.File:
    """An unfinished feature file, open for writing: the one at ``path`` if it was made alike,
    else a new one."""
    if path.exists():
        try:
            file = h5py.File(path, "r+")
            if _changed_attribute(file, attributes) is None and (
                file[FEATURES].shape == shape and 0 <= int(file.attrs["num_done"]) <= shape[0]
            ):
                return file
            file.close()
            reason = "was made otherwise"
        except HDF5_ERRORS as error:
            reason = f"is not readable ({one_line(error)})"
        warn(f"{path}: {reason}; extraction begins anew")
        path.unlink()
    # The file appears only when all of HDF5's own metadata is on the disk.
    temporary = path.with_name(f".{path.name}.tmp")
    with h5py.File(temporary, "w") as file:
        create_rows(file, FEATURES, shape, dtype, one_chunk_a_row=True)
        create_rows(file, CHECKSUMS, shape[:1], "uint32", one_chunk_a_row=False)
        file.attrs.update(attributes)
        file.attrs["num_done"] = 0
    with open(temporary, "rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(path)
    return h5py.File(path, "r+")


def _changed_attribute(file: h5py.File, attributes: Mapping[str, Any]) -> str | None:
    for name, value in attributes.items():
        if name not in file.attrs or not np.array_equal(file.attrs[name], value):
            return name.replace("_", " ")
    return None


class FeatureWriter:
    """Appends maps to an unfinished feature file, past HDF5; rows count in ``num_done`` once they
    are on the disk."""

    def __init__(self, file: h5py.File, path: Path) -> None:
        self._file, self._path = file, path
        self.num_done = int(file.attrs["num_done"])
        offsets = row_offsets(file[FEATURES])
        if offsets is None:
            raise UserError(f"{path}: cannot be written in place; delete it and run again")
        self._offsets = offsets
        self._descriptor = os.open(path, os.O_RDWR)

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._descriptor)

    def write(self, maps: Tensor) -> int:
        """Append maps (n, C, H', W'); returns n.

        Raises
        ------
        UserError
            If a value is not finite, or the disk is full.
        """
        rows = maps.cpu().numpy()
        first, last = self.num_done, self.num_done + len(rows)
        checksums = np.empty(len(rows), np.uint32)
        for k, row in enumerate(rows):
            if not all_finite(row):
                raise UserError(
                    f"{self._path}: the features of image {first + k} are not finite, or too "
                    "large for float16; see whether the backbone's weights fit its images"
                )
            checksums[k] = zlib.crc32(row.data)
        try:
            for row, offset in zip(rows, self._offsets[first:last].tolist(), strict=True):
                _write_at(self._descriptor, row.reshape(-1).view(np.uint8).data, offset)
            os.fsync(self._descriptor)
        except OSError as error:
            if error.errno in DISK_FULL_ERRNOS:
                bytes_left = int(rows[0].nbytes) * (len(self._offsets) - first)
                raise disk_full_error(self._path, bytes_left, error) from None
            raise
        self._file[CHECKSUMS][first:last] = checksums
        self._file.flush()
        self._file.attrs.modify("num_done", last)
        self._file.flush()
        self.num_done = last
        return len(rows)


def _write_at(descriptor: int, buffer: memoryview, offset: int) -> None:
    while buffer:
        written = os.pwrite(descriptor, buffer, offset)
        buffer, offset = buffer[written:], offset + written
