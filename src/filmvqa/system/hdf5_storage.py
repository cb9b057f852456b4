"""Rows of an HDF5 dataset that are missing.

HDF5 silently returns a fill value, usually zero, for rows that were never written, and for parts in
other files (of a virtual dataset, or of external storage) that cannot be opened. Missing rows are
found without reading values: 70,000 chunks take 0.03 s.
"""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

from filmvqa.system.errors import UserError
from filmvqa.system.hdf5 import HDF5_ERRORS, open_hdf5, unreadable

if TYPE_CHECKING:
    import h5py

#: Which rows (N,) of a dataset are missing, and the reason with its remedy.
Missing: TypeAlias = tuple[NDArray[np.bool_], str]
NEVER_WRITTEN = (
    "they were never written; let the program that writes them finish, or copy the rows that were "
    "written to another file"
)


def read_array(dataset: Any) -> NDArray[Any]:
    """All values of a dataset; raises ``UserError`` as ``check_is_there``."""
    check_is_there(dataset)
    return np.asarray(dataset[:])


def check_is_there(dataset: h5py.Dataset) -> None:
    """Raise ``UserError``, which names the file and the rows, if rows of a dataset are missing."""
    missing, words = missing_rows(dataset)
    if missing.any():
        name = dataset.name.removeprefix("/")
        raise UserError(f"{dataset.file.filename}: {name!r} lacks {name_rows(missing)}: {words}")


def name_rows(missing: NDArray[np.bool_]) -> str:
    """The first range of missing rows (N,), and the number of other missing rows."""
    first = int(missing.argmax())
    length = int((~missing[first:]).argmax()) or len(missing) - first
    run = f"row {first}" if length == 1 else f"rows {first} to {first + length - 1}"
    more = int(missing.sum()) - length
    return f"{run} and {more:,} more" if more else run


def missing_rows(dataset: h5py.Dataset) -> Missing:
    """The missing rows of a dataset, and why: ``NEVER_WRITTEN``, or a problem with another file."""
    missing = np.zeros(dataset.shape[:1] or 1, bool)
    if not dataset.size:
        return missing, ""
    if dataset.is_virtual:
        return _missing_in_parts(dataset)
    if dataset.external:
        return _missing_in_raw_files(dataset)
    if dataset.chunks is None:
        return missing | (dataset.id.get_storage_size() == 0), NEVER_WRITTEN
    chunks = np.array(dataset.chunks)
    grid = -(-np.array(dataset.shape) // chunks)
    if dataset.id.get_num_chunks() < math.prod(grid.tolist()):
        is_written = np.zeros(grid, bool)

        def mark(chunk: h5py.h5d.StoreInfo) -> None:
            is_written[tuple(np.array(chunk.chunk_offset) // chunks)] = True

        dataset.id.chunk_iter(mark)
        is_whole = is_written.reshape(len(is_written), -1).all(1)
        missing = np.repeat(~is_whole, chunks[0])[: len(missing)]
    return missing, NEVER_WRITTEN


def _missing_in_raw_files(dataset: h5py.Dataset) -> Missing:
    """The missing rows of a dataset with external storage: raw values in other files."""
    missing, words = np.zeros(dataset.shape[0], bool), ""
    row_bytes = dataset.size * dataset.dtype.itemsize // dataset.shape[0]
    end, first = row_bytes * dataset.shape[0], 0
    for name, offset, size in dataset.external:
        last = min(end, first + size)
        path = _find_file(dataset, name, "HDF5_EXTFILE_PREFIX", [Path()])
        length = path.stat().st_size if path is not None else 0
        if length < offset + last - first:
            missing[first // row_bytes : -(-last // row_bytes)] = True
            problem = "is too short" if path is not None else "is missing"
            words = words or f"they are in {name}, which {problem}; restore it"
        first = last
    return missing, words


def _missing_in_parts(dataset: h5py.Dataset) -> Missing:
    """The missing rows of a virtual dataset, which joins parts of others: rows of parts that cannot
    be read, and rows that no part covers."""
    missing, words = np.zeros(dataset.shape[0], bool), ""
    # The number of covered values of each row, as differences between rows.
    change = np.zeros(len(missing) + 1, np.int64)
    sources: dict[tuple[str, str], _Source] = {}  # by the names of file and dataset
    for part in dataset.virtual_sources():
        key = part.file_name, part.dset_name
        if key not in sources:
            sources[key] = _open_source(dataset, *key)
        problem = _find_problem(part, sources[key])
        words = words or problem
        for first, last in _blocks(part.vspace, dataset.shape):
            size = math.prod(b - a + 1 for a, b in zip(first[1:], last[1:], strict=True))
            change[first[0]] += size
            change[last[0] + 1] -= size
            if problem:
                missing[first[0] : last[0] + 1] = True
    unmapped = change.cumsum()[:-1] < dataset.size // len(missing)
    return missing | unmapped, words or "no file that it joins has them; join the files again"


class _Source(NamedTuple):
    """A source of a virtual dataset: its missing rows and their reason, and its size; or why it
    cannot be read."""

    missing: NDArray[np.bool_] = np.zeros(0, bool)
    words: str = ""
    size: int = 0
    problem: str = ""


def _open_source(dataset: h5py.Dataset, file_name: str, name: str) -> _Source:
    import h5py

    if "%b" in file_name + name:
        return _Source(problem=f"they are in files named {file_name}; join these by their names")
    here = Path(dataset.file.filename)
    folders = [here.parent, Path(), here.resolve().parent]
    path = here if file_name == "." else _find_file(dataset, file_name, "HDF5_VDS_PREFIX", folders)
    if path is None:
        return _Source(problem=f"they are in {file_name}, which is missing; restore it")
    try:
        with open_hdf5(path) as file:
            source = file.get(name)
            if not isinstance(source, h5py.Dataset):
                return _Source(problem=f"they are in {name!r} of {file_name}, which lacks it")
            return _Source(*missing_rows(source), source.size)
    except HDF5_ERRORS as error:
        raise unreadable(path, error, "replace it by an intact one") from None


def _find_problem(part: h5py.VDSmap, source: _Source) -> str:
    """Why a part cannot be read; empty if it can."""
    if source.problem:
        return source.problem
    try:
        first, last = (int(bound[0]) for bound in part.src_space.get_select_bounds())
    except (ValueError, RuntimeError):  # the whole source, or without an end
        first, last = 0, len(source.missing) - 1
        if _num_points(part.vspace, source.size) != source.size:
            last = len(source.missing)
    if last >= len(source.missing):
        return f"they are in {part.file_name}, which is smaller now; restore the whole file"
    if source.missing[first : last + 1].any():
        return f"{part.file_name} lacks {name_rows(source.missing)}: {source.words}"
    return ""


def _num_points(space: h5py.h5s.SpaceID, otherwise: int) -> int:
    try:
        return int(space.get_select_npoints())
    except RuntimeError:  # without an end
        return otherwise


def _blocks(space: h5py.h5s.SpaceID, shape: tuple[int, ...]) -> list[Any]:
    """The first and the last index of each block of a selection."""
    try:
        blocks: list[Any] = space.get_select_hyper_blocklist().tolist()
    except (ValueError, NotImplementedError, RuntimeError):  # everything, or without an end
        return [([0] * len(shape), [n - 1 for n in shape])]
    return blocks


def _find_file(dataset: h5py.Dataset, name: str, variable: str, folders: list[Path]) -> Path | None:
    """The file that HDF5 opens where a dataset names another file. The environment variable may
    hold a folder that is searched before the others."""
    if prefix := os.environ.get(variable):
        origin = str(Path(dataset.file.filename).parent)
        folders = [Path(prefix.replace("${ORIGIN}", origin)), *folders]
    names = [Path(name)]
    if names[0].is_absolute() and variable == "HDF5_VDS_PREFIX":
        names.append(Path(names[0].name))
    candidates = [folder / each for each in names for folder in folders]
    return next((path for path in candidates if path.is_file()), None)
