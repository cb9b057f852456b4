"""The format of the HDF5 file of a split's features, and its reader.

``feature_writer`` writes the file.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from filmvqa.features.rows import REMEDY, TORCH_DTYPES, DatasetRows
from filmvqa.system.errors import UserError
from filmvqa.system.hdf5 import HDF5_ERRORS, open_hdf5, outside_cause, unreadable
from filmvqa.system.hdf5_storage import read_array

if TYPE_CHECKING:
    import h5py

FORMAT = "filmvqa-features-2"
_EARLIER_FORMATS = ("filmvqa-features-1",)  # without checksums
#: The datasets of maps (N, C, H, W) and of their CRC-32 (N,).
FEATURES, CHECKSUMS = "features", "row_crc32"
#: Datasets (N,): the image of each row, unless row i is image i, and the CRC-32 of its name.
IMAGE_IDXS, NAME_CHECKSUMS = "image_idxs", "image_name_crc32"
IMAGE_IDXS_CRC32 = "image_idxs_crc32"
#: Attributes that record how features were made, besides ``format`` and ``split``.
FEATURE_SPEC = (
    "backbone", "weights", "weights_sha256", "stage", "image_size", "mean", "std", "precision",
)  # fmt: skip
#: Another such attribute, of spectrograms only.
FRONT_END = "front_end"
#: Attribute of maps in other projects' files: the order of their axes.
ORDER, ORDERS = "order", ("NCHW", "NHWC")
_EXTRACT = "scripts/extract_features.py"
_REWRITE = f"rewrite it, or extract the features into another folder with {_EXTRACT}"


@dataclass(frozen=True)
class FeatureFile:
    """A complete feature file, open for reading.

    Attributes
    ----------
    name_checksums
        (N,) CRC-32 of image names; None if the file has none.
    image_names_sha256, spec
        Hash of the image names, and how the features were made; None for other projects' files.
    """

    rows: DatasetRows
    name_checksums: NDArray[np.uint32] | None
    image_names_sha256: str | None
    spec: dict[str, Any] | None


def open_feature_file(path: str | Path) -> FeatureFile:
    """Open a feature file of this project, of film or of another project.

    Raises
    ------
    UserError
        If the file is missing, unreadable, unfinished or of an unknown format.
    """
    path = Path(path)
    try:
        file = open_hdf5(path)
        try:
            return _opened(path, file)
        except BaseException:
            file.close()
            raise
    except FileNotFoundError:
        raise UserError(f"{path}: no such file; make it with {_EXTRACT}") from None
    except HDF5_ERRORS as error:
        raise unreadable(path, error, REMEDY) from None


def _opened(path: Path, file: h5py.File) -> FeatureFile:
    import h5py

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
        columns[name] = read_array(column)
    rows = DatasetRows(
        maps,
        columns.get(CHECKSUMS),
        image_idxs=_checked_indices(path, columns.get(IMAGE_IDXS), attributes, is_ours),
        channels_last=not is_ours and _is_channels_last(path, maps),
    )
    spec = [name for name in (*FEATURE_SPEC, FRONT_END) if name in attributes]
    return FeatureFile(
        rows,
        columns.get(NAME_CHECKSUMS) if is_ours else None,
        attributes.get("image_names_sha256"),
        {name: np.array(attributes[name]).tolist() for name in spec} if is_ours else None,
    )


def _maps(path: Path, file: h5py.File, is_ours: bool) -> h5py.Dataset:
    """Find the dataset of maps: ``features``, or the only one with four axes in others' files."""
    import h5py

    maps = file.get(FEATURES)
    if not isinstance(maps, h5py.Dataset):
        if is_ours:
            raise UserError(f"{path}: has no dataset {FEATURES!r}; {REMEDY}")
        if isinstance(link := file.get(FEATURES, getlink=True), h5py.ExternalLink):
            raise UserError(
                f"{path}: {FEATURES!r} is {link.path!r} of {link.filename}, which is missing; "
                "restore it"
            )
        others = [x for x in file.values() if isinstance(x, h5py.Dataset) and x.ndim == 4]
        if len(others) != 1:
            raise UserError(
                f"{path}: has no dataset {FEATURES!r}, and {len(others) or 'none'} of four axes "
                f"(its entries: {', '.join(map(repr, file)) or 'none'}); rename the dataset of "
                f"maps (N, C, H, W) to {FEATURES!r}"
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
    """Raise ``UserError`` unless a file of this project has all parts of its format."""
    required = ("format", *FEATURE_SPEC, "image_names_sha256", "num_done")
    if missing := [name for name in required if name not in attributes]:
        raise UserError(f"{path}: lacks the attribute {missing[0]!r}; {REMEDY}")
    file_format = attributes["format"]
    if file_format not in (FORMAT, *_EARLIER_FORMATS):
        raise UserError(
            f"{path}: has the format {file_format!r}, not {FORMAT!r}; use the version of filmvqa "
            "that wrote it"
        )
    if (CHECKSUMS in file) != (file_format == FORMAT):
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
    checksum = attributes.get(IMAGE_IDXS_CRC32)
    if is_ours and checksum != (None if image_idxs is None else zlib.crc32(image_idxs.tobytes())):
        raise UserError(f"{path}: {IMAGE_IDXS!r} is damaged (other checksum); {REMEDY}")
    if image_idxs is None:
        return None
    if image_idxs.dtype.kind not in "iu" or not (
        image_idxs[0] >= 0 and image_idxs[-1] < 2**31 and (image_idxs[1:] > image_idxs[:-1]).all()
    ):
        raise UserError(
            f"{path}: {IMAGE_IDXS!r} must be sorted distinct whole numbers, one per row; {_REWRITE}"
        )
    return image_idxs.astype(np.int32)


def _is_channels_last(path: Path, maps: h5py.Dataset) -> bool:
    """Whether maps of another project are (N, H, W, C).

    The attribute ``order`` decides. Without it, the shape decides if it is unambiguous: maps are
    square, or have far more channels than rows.
    """
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
        f"{path}: its shape {maps.shape} may be (N, C, H, W) or (N, H, W, C); "
        f"give {name!r} the attribute {ORDER!r}, {' or '.join(ORDERS)}: "
        f"h5py.File(path, 'r+')[{name!r}].attrs[{ORDER!r}] = {ORDERS[0]!r}"
    )


def recorded_precision(path: Path) -> str | None:
    """The precision in which the features of a file were computed.

    None if the file does not exist, is broken, or does not record the precision.

    Raises
    ------
    UserError
        If the system refuses to read the file.
    """
    try:
        with open_hdf5(path) as file:
            return str(file.attrs["precision"])
    except FileNotFoundError:
        return None
    except HDF5_ERRORS as error:
        if outside_cause(error) is not None:
            raise unreadable(path, error, REMEDY) from None
        return None
