"""Write the HDF5 file of a split's features so that an interrupted extraction can be resumed."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from filmvqa.features.feature_file import (
    CHECKSUMS,
    FEATURES,
    IMAGE_IDXS,
    IMAGE_IDXS_CRC32,
    NAME_CHECKSUMS,
)
from filmvqa.features.rows import REMEDY, all_finite, create_rows, row_offsets
from filmvqa.system.disk import DISK_FULL_ERRNOS, disk_full_error
from filmvqa.system.errors import UserError, one_line, warn
from filmvqa.system.hdf5 import HDF5_ERRORS, image_name_crc32, open_hdf5, outside_cause, unreadable

#: Attributes that are hashes, and what they identify.
_HASHED = {"image_names_sha256": "set of images", "weights_sha256": "content of the weights"}
_KEEP = "give the options that it was made with, or move it away"


def check_made_alike(
    path: Path, attributes: Mapping[str, Any], shape: tuple[int, int, int, int]
) -> None:
    """Raise ``UserError`` unless a feature file has these attributes and this shape."""
    try:
        with open_hdf5(path) as file:
            changed = _changed_attribute(file, attributes, shape)
    except HDF5_ERRORS as error:
        raise unreadable(path, error, REMEDY) from None
    if changed is not None:
        raise UserError(f"{path}: holds features of another {changed}; {_KEEP}")


def open_writer(
    path: Path,
    attributes: Mapping[str, Any],
    shape: tuple[int, int, int, int],
    dtype: str,
    image_names: Mapping[int, str],
) -> FeatureWriter:
    """Open an unfinished feature file to resume it, or create the file.

    A file that is broken or has no features yet is replaced.

    Parameters
    ----------
    image_names
        The names of the N images by index, in the order of rows.

    Raises
    ------
    UserError
        If the file has features that were made differently, or cannot be opened although its
        content may be intact.
    """
    image_idxs = np.fromiter(image_names, np.int32)
    if path.exists():
        file = None
        try:
            file = open_hdf5(path, "r+")
            num_done = int(file.attrs["num_done"])
            changed = _changed_attribute(file, attributes, shape)
            if changed is None:
                return FeatureWriter(file, path, image_idxs)
            file.close()
            if num_done:
                raise UserError(
                    f"{path}: is unfinished, and holds features of {num_done} images of another "
                    f"{changed}; {_KEEP}"
                )
        except HDF5_ERRORS as error:
            if file is not None:
                with suppress(*HDF5_ERRORS):
                    file.close()
            if outside_cause(error) is not None:
                raise unreadable(path, error, REMEDY) from None
            warn(f"{path}: is damaged ({one_line(error)}); extraction restarts")
        path.unlink()
    try:
        _create(path, attributes, shape, dtype, image_names)
        return FeatureWriter(h5py.File(path, "r+"), path, image_idxs)
    except HDF5_ERRORS as error:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        raise _not_written(path, error, size) from None


def _create(
    path: Path,
    attributes: Mapping[str, Any],
    shape: tuple[int, int, int, int],
    dtype: str,
    image_names: Mapping[int, str],
) -> None:
    image_idxs = np.fromiter(image_names, np.int32)
    # The file gets its name only when all of HDF5's metadata is on the disk.
    temporary = path.with_name(f".{path.name}.tmp")
    with h5py.File(temporary, "w") as file:
        # Write everything else before the space of the features: nothing must be written behind
        # it, because the disk may fill up or a limit on the file size may be reached.
        file[NAME_CHECKSUMS] = image_name_crc32(image_names.values())
        file.attrs.update(attributes)
        if not np.array_equal(image_idxs, np.arange(shape[0])):
            file[IMAGE_IDXS] = image_idxs
            file.attrs[IMAGE_IDXS_CRC32] = zlib.crc32(image_idxs.tobytes())
        file.attrs["num_done"] = 0
        file.flush()
        create_rows(file, CHECKSUMS, shape[:1], "uint32", one_chunk_a_row=False)
        create_rows(file, FEATURES, shape, dtype, one_chunk_a_row=True)
    with open(temporary, "rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(path)


def _not_written(path: Path, error: BaseException, size: int) -> UserError:
    """The error of a failed write to ``path``; ``size`` bytes are still to be written."""
    for number in DISK_FULL_ERRNOS:  # HDF5 gives the number only in its message
        if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
            return disk_full_error(path, size, OSError(number, os.strerror(number)))
    return unreadable(path, error, "run again")


def _changed_attribute(
    file: h5py.File, attributes: Mapping[str, Any], shape: tuple[int, ...]
) -> str | None:
    """Name what differs between a file and the features to be made; None if nothing differs."""
    for name, value in attributes.items():
        if name not in file.attrs:
            return name.replace("_", " ")
        stored = file.attrs[name]
        if not np.array_equal(stored, value):
            if name in _HASHED:
                return _HASHED[name]
            there, now = (np.array(values).tolist() for values in (stored, value))
            return f"{name.replace('_', ' ')} ({there} there, {now} now)"
    return None if file[FEATURES].shape == shape else "shape"


class FeatureWriter:
    """Appends maps to an unfinished feature file, bypassing HDF5.

    Rows are counted in ``num_done`` once they are on the disk.

    Raises
    ------
    ValueError
        If the file's content is broken. The caller must then close the file.
    """

    def __init__(self, file: h5py.File, path: Path, image_idxs: NDArray[np.int32]) -> None:
        self._file, self._path, self._image_idxs = file, path, image_idxs
        self.num_done = int(file.attrs["num_done"])
        try:
            offsets = row_offsets(file[FEATURES])
        except UserError as error:
            raise ValueError(str(error)) from None
        if offsets is None or not 0 <= self.num_done <= len(offsets):
            raise ValueError("its rows cannot be written in place")
        if file[CHECKSUMS].shape != offsets.shape or file[CHECKSUMS].dtype != np.uint32:
            raise ValueError(f"{CHECKSUMS!r} does not fit {FEATURES!r}")
        stored = file[IMAGE_IDXS][:] if IMAGE_IDXS in file else np.arange(len(offsets))
        if not np.array_equal(stored, image_idxs):
            raise ValueError(f"{IMAGE_IDXS!r} does not fit the images")
        self._offsets = offsets
        self._descriptor = os.open(path, os.O_RDWR)

    def __enter__(self) -> FeatureWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        os.close(self._descriptor)
        # After a failed write, HDF5 may fail again; that error would hide the first one.
        with suppress(*(HDF5_ERRORS if kind is not None else ())):
            self._file.close()

    def write(self, maps: Tensor) -> int:
        """Append maps (n, C, H', W'), and return n.

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
                    f"{self._path}: the features of image {self._image_idxs[first + k]} are not "
                    "finite, or too large for float16; check that the backbone's weights suit its "
                    "images"
                )
            checksums[k] = zlib.crc32(row.data)
        try:
            for row, offset in zip(rows, self._offsets[first:last].tolist(), strict=True):
                _write_at(self._descriptor, row.reshape(-1).view(np.uint8).data, offset)
            os.fsync(self._descriptor)
            self._file[CHECKSUMS][first:last] = checksums
            self._file.flush()
            self._file.attrs.modify("num_done", last)
            self._file.flush()
        except HDF5_ERRORS as error:
            bytes_left = int(rows[0].nbytes) * (len(self._offsets) - first)
            raise _not_written(self._path, error, bytes_left) from None
        self.num_done = last
        return len(rows)


def _write_at(descriptor: int, buffer: memoryview, offset: int) -> None:
    while buffer:
        written = os.pwrite(descriptor, buffer, offset)
        buffer, offset = buffer[written:], offset + written
