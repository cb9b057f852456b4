"""The HDF5 file of a split's features: its format, written and read."""

from __future__ import annotations

import math
import os
import zlib
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from filmvqa.features.rows import (
    REMEDY,
    TORCH_DTYPES,
    DatasetRows,
    all_finite,
    create_rows,
    row_offsets,
)
from filmvqa.system.disk import DISK_FULL_ERRNOS, disk_full_error
from filmvqa.system.errors import UserError, one_line, warn
from filmvqa.system.hdf5 import HDF5_ERRORS, image_name_crc32, outside_cause, unreadable

FORMAT = "filmvqa-features-2"
_EARLIER_FORMATS = ("filmvqa-features-1",)  # without checksums
#: The dataset of maps, (N, C, H, W), and that of their CRC-32, (N,).
FEATURES, CHECKSUMS = "features", "row_crc32"
#: Datasets (N,): the image of each row, if it is not its number, and the CRC-32 of its name.
IMAGE_IDXS, NAME_CHECKSUMS = "image_idxs", "image_name_crc32"
_IMAGE_IDXS_CRC32 = "image_idxs_crc32"
#: Attributes that say how features were made, beside ``format`` and ``split``.
FEATURE_SPEC = (
    "backbone", "weights", "weights_sha256", "stage", "image_size", "mean", "std", "precision",
)  # fmt: skip
#: One more, which only spectrograms have.
FRONT_END = "front_end"
#: What the attributes are that are hashes.
_HASHED = {"image_names_sha256": "set of images", "weights_sha256": "content of the weights"}
#: Attribute of the maps in files of others: which order their axes have.
ORDER, ORDERS = "order", ("NCHW", "NHWC")
_EXTRACT = "scripts/extract_features.py"
_REWRITE = f"write it so, or extract the features into another folder with {_EXTRACT}"
_KEEP = "give the options that it was made with, or move it away"


@dataclass(frozen=True)
class FeatureFile:
    """A complete feature file that is open for reading.

    ``checksums`` (N,) and ``name_checksums`` (N,) are None for files that have none; ``image_idxs``
    (N,), sorted, is None where image i is row i; ``image_names_sha256`` and ``spec``, how the
    features were made, are None for files of others.
    """

    rows: DatasetRows
    checksums: NDArray[np.uint32] | None
    image_idxs: NDArray[np.int32] | None
    name_checksums: NDArray[np.uint32] | None
    image_names_sha256: str | None
    spec: dict[str, Any] | None


def open_feature_file(path: str | Path) -> FeatureFile:
    """Open a feature file that this project, film or another project wrote.

    Raises
    ------
    UserError
        If it is missing, unreadable, unfinished or of another format.
    """
    path = Path(path)
    try:
        file = h5py.File(path, "r")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it with {_EXTRACT}") from None
    except HDF5_ERRORS as error:
        raise unreadable(path, error, REMEDY) from None
    try:
        return _opened(path, file)
    except UserError:
        file.close()
        raise
    except HDF5_ERRORS as error:
        file.close()
        raise unreadable(path, error, REMEDY) from None


def _opened(path: Path, file: h5py.File) -> FeatureFile:
    attributes = dict(file.attrs)
    is_ours = CHECKSUMS in file or str(attributes.get("format")).startswith("filmvqa-features-")
    maps = _maps(path, file, is_ours)
    count = maps.shape[0]
    num_done = attributes.get("num_done", count)
    if num_done != count:
        raise UserError(f"{path}: only {num_done} of {count} images done; run {_EXTRACT} again")
    if is_ours:
        _check_ours(path, file, attributes, maps)
    columns: dict[str, NDArray[Any]] = {}
    for name in (CHECKSUMS, IMAGE_IDXS, NAME_CHECKSUMS):
        if (column := file.get(name)) is None:
            continue
        is_column = isinstance(column, h5py.Dataset) and column.shape == (count,)
        if not is_column or column.dtype.kind not in "iu":
            raise UserError(
                f"{path}: {name!r} does not fit the features of {count} images; "
                f"{REMEDY if is_ours else _REWRITE}"
            )
        columns[name] = column[:]
    image_idxs = _checked_indices(path, columns.get(IMAGE_IDXS), attributes, is_ours)
    checksums = columns.get(CHECKSUMS)
    rows = DatasetRows(
        maps,
        checksums,
        channels_last=not is_ours and _is_channels_last(path, maps),
        image_idxs=image_idxs,
    )
    return FeatureFile(
        rows,
        checksums,
        image_idxs,
        columns.get(NAME_CHECKSUMS) if is_ours else None,
        attributes.get("image_names_sha256"),
        _spec(attributes) if is_ours else None,
    )


def _spec(attributes: Mapping[str, Any]) -> dict[str, Any]:
    names = [name for name in (*FEATURE_SPEC, FRONT_END) if name in attributes]
    return {name: np.array(attributes[name]).tolist() for name in names}


def _maps(path: Path, file: h5py.File, is_ours: bool) -> h5py.Dataset:
    """The dataset of maps: ``features``, or in files of others the only one with four axes."""
    maps = file.get(FEATURES)
    if not isinstance(maps, h5py.Dataset):
        if is_ours:
            raise UserError(f"{path}: has no dataset {FEATURES!r}; {REMEDY}")
        others = [x for x in file.values() if isinstance(x, h5py.Dataset) and x.ndim == 4]
        if len(others) != 1:
            raise UserError(
                f"{path}: has no dataset {FEATURES!r}, and {len(others) or 'none'} of four axes "
                f"(its entries: {', '.join(map(repr, file)) or 'none'}); name that of the maps "
                f"(N, C, H, W) {FEATURES!r}"
            )
        maps = others[0]
    has_shape = maps.ndim == 4 and min(maps.shape) > 0 and maps.shape[0] < 2**31
    if not has_shape or maps.dtype.name not in TORCH_DTYPES:
        raise UserError(
            f"{path}: {maps.name.removeprefix('/')!r} has the shape {maps.shape} and the type "
            f"{maps.dtype}; need (N, C, H, W) of {', '.join(TORCH_DTYPES)}: {_REWRITE}"
        )
    return maps


def _check_ours(
    path: Path, file: h5py.File, attributes: Mapping[str, Any], maps: h5py.Dataset
) -> None:
    """Raise ``UserError`` unless a file of this project has all that its format has."""
    required = ("format", *FEATURE_SPEC, "image_names_sha256", "num_done")
    if missing := [name for name in required if name not in attributes]:
        raise UserError(f"{path}: lacks the attribute {missing[0]!r}; {REMEDY}")
    found = attributes["format"]
    if found not in (FORMAT, *_EARLIER_FORMATS):
        raise UserError(
            f"{path}: has the format {found!r}, not {FORMAT!r}; use the version of filmvqa that "
            "wrote it"
        )
    if (CHECKSUMS in file) != (found == FORMAT):
        raise UserError(f"{path}: has no dataset {CHECKSUMS!r}; {REMEDY}")
    if CHECKSUMS in file and file[CHECKSUMS].dtype != np.uint32:
        raise UserError(f"{path}: {CHECKSUMS!r} does not fit {FEATURES!r}; {REMEDY}")
    if maps.id.get_create_plist().get_nfilters() == 0 and (
        maps.size * maps.dtype.itemsize > path.stat().st_size
    ):
        raise UserError(f"{path}: is shorter than its features of shape {maps.shape}; {REMEDY}")


def _checked_indices(
    path: Path, image_idxs: NDArray[Any] | None, attributes: Mapping[str, Any], is_ours: bool
) -> NDArray[np.int32] | None:
    recorded = attributes.get(_IMAGE_IDXS_CRC32)
    if is_ours and recorded != (None if image_idxs is None else zlib.crc32(image_idxs.tobytes())):
        raise UserError(f"{path}: {IMAGE_IDXS!r} is damaged (other checksum); {REMEDY}")
    if image_idxs is None:
        return None
    if image_idxs.dtype.kind not in "iu" or not (
        image_idxs[0] >= 0 and image_idxs[-1] < 2**31 and (image_idxs[1:] > image_idxs[:-1]).all()
    ):
        raise UserError(
            f"{path}: {IMAGE_IDXS!r} must be sorted distinct whole numbers, one a row; {_REWRITE}"
        )
    return image_idxs.astype(np.int32)


def _is_channels_last(path: Path, maps: h5py.Dataset) -> bool:
    """Whether maps of another project are (N, H, W, C): as its attribute ``order`` says, or where
    the shape leaves no doubt, since maps are square or have far more channels than rows."""
    first, second, last = maps.shape[1:]
    order = maps.attrs.get(ORDER)
    if order in ORDERS:
        return bool(order == "NHWC")
    if order is None and not first == second == last:
        if second == last:
            return False
        if first == second:
            return True
        if (first == 3) != (last == 3):
            return bool(last == 3)
        if first >= 4 * max(second, last):
            return False
        if last >= 4 * max(first, second):
            return True
    name = maps.name.removeprefix("/")
    raise UserError(
        f"{path}: its shape {maps.shape} does not tell whether it is (N, C, H, W) or (N, H, W, C); "
        f"give {name!r} the attribute {ORDER!r}, {' or '.join(ORDERS)}: "
        f"h5py.File(path, 'r+')[{name!r}].attrs[{ORDER!r}] = {ORDERS[0]!r}"
    )


def recorded_precision(path: Path) -> str | None:
    """The precision in which the features of a file were computed, None if there is no such file,
    or it is broken or does not say.

    Raises
    ------
    UserError
        If the file cannot be read for a reason outside of it.
    """
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs["precision"])
    except FileNotFoundError:
        return None
    except HDF5_ERRORS as error:
        if outside_cause(error) is not None:
            raise unreadable(path, error, REMEDY) from None
        return None


def check_made_alike(
    path: Path, attributes: Mapping[str, Any], shape: tuple[int, int, int, int]
) -> None:
    """Raise ``UserError`` unless a feature file has these attributes and this shape."""
    try:
        with h5py.File(path, "r") as file:
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
    """Open an unfinished feature file to go on with it, or create it.

    Parameters
    ----------
    image_names
        The names of the N images by their indices, in the order of rows.

    Raises
    ------
    UserError
        If features made otherwise are in the file, or it cannot be opened though its content may be
        whole: only a file whose content is broken, or which has no features yet, is made anew.
    """
    image_idxs = np.fromiter(image_names, np.int32)
    if path.exists():
        file = None
        try:
            file = h5py.File(path, "r+")
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
            warn(f"{path}: is damaged ({one_line(error)}); extraction begins anew")
        path.unlink()
    try:
        name_checksums = image_name_crc32(image_names.values())
        _create(path, attributes, shape, dtype, image_idxs, name_checksums)
        return FeatureWriter(h5py.File(path, "r+"), path, image_idxs)
    except HDF5_ERRORS as error:
        size = math.prod(shape) * np.dtype(dtype).itemsize
        raise _not_written(path, error, size) from None


def _create(
    path: Path,
    attributes: Mapping[str, Any],
    shape: tuple[int, int, int, int],
    dtype: str,
    image_idxs: NDArray[np.int32],
    name_checksums: NDArray[np.uint32],
) -> None:
    # The file appears only when all of HDF5's own metadata is on the disk.
    temporary = path.with_name(f".{path.name}.tmp")
    with h5py.File(temporary, "w") as file:
        # What is written now comes first: nothing is written behind the features' room, where the
        # disk or the limit on a file's size may end.
        file[NAME_CHECKSUMS] = name_checksums
        file.attrs.update(attributes)
        if not np.array_equal(image_idxs, np.arange(shape[0])):
            file[IMAGE_IDXS] = image_idxs
            file.attrs[_IMAGE_IDXS_CRC32] = zlib.crc32(image_idxs.tobytes())
        file.attrs["num_done"] = 0
        file.flush()
        create_rows(file, CHECKSUMS, shape[:1], "uint32", one_chunk_a_row=False)
        create_rows(file, FEATURES, shape, dtype, one_chunk_a_row=True)
    with open(temporary, "rb") as stream:
        os.fsync(stream.fileno())
    temporary.replace(path)


def _not_written(path: Path, error: BaseException, size: int) -> UserError:
    """The error of a write to ``path``, of which ``size`` bytes are still to be written."""
    for number in DISK_FULL_ERRNOS:  # HDF5 gives the number in its message alone
        if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
            return disk_full_error(path, size, OSError(number, os.strerror(number)))
    return unreadable(path, error, "run again")


def _changed_attribute(
    file: h5py.File, attributes: Mapping[str, Any], shape: tuple[int, ...]
) -> str | None:
    """What differs between a file and what is to be made, in words; None if nothing does."""
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
    """Appends maps to an unfinished feature file, past HDF5; rows count in ``num_done`` once they
    are on the disk.

    Raises
    ------
    ValueError
        If the file's content is broken; it stays the caller's then.
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
        # After an error of a write HDF5 may fail again, and would hide the first error.
        with suppress(*(HDF5_ERRORS if kind is not None else ())):
            self._file.close()

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
                    f"{self._path}: the features of image {self._image_idxs[first + k]} are not "
                    "finite, or too large for float16; see whether the backbone's weights fit its "
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
