"""HDF5 files of questions and of features: opening, errors, hashes."""

from __future__ import annotations

import errno
import hashlib
import re
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from filmvqa.system.errors import UserError, one_line
from filmvqa.system.files import system_cause

if TYPE_CHECKING:
    import h5py

#: Errors of h5py for a file that it cannot read or interpret.
HDF5_ERRORS = (
    OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError,
    IndexError, MemoryError,
)  # fmt: skip
#: HDF5's reasons without an error number that do not prove damage, with their remedies.
_OTHER_CAUSES = {
    "already open for": "close it where it is open for writing, or, if that process was killed, "
    "clear its mark (h5clear -s)",
    "memory allocation failed": "free some memory",
    "unable to lock": "close it in the process that has it open",
    "unable to open external": "restore the other file that holds a part of it",
    "plugin": "it needs an HDF5 filter that is not installed here: rewrite it with h5repack -f "
    "NONE where that filter is installed",
}
_ERRNO = re.compile(r"errno = (\d+)")
#: The part of a file that is searched for heaps; in our files they precede the rows.
_HEAD = 2**20


def open_hdf5(path: str | Path, mode: str = "r") -> h5py.File:
    """Open an existing file as ``h5py.File`` does. Raises one of ``HDF5_ERRORS``, also for a broken
    heap of strings, on which libhdf5 may loop forever (``H5HG__cache_heap_deserialize``)."""
    import h5py  # takes 0.15 s, and questions about pictures do not need it

    with open(path, "rb") as stream:
        head = stream.read(_HEAD)
    for heap in re.finditer(rb"GCOL\x01\0\0\0(?=.{8})", head, re.DOTALL):
        at = heap.start() + 16
        end = heap.start() + int.from_bytes(head[at - 8 : at], "little")
        while at + 16 <= min(end, len(head)):
            size = int.from_bytes(head[at + 8 : at + 16], "little")
            # Objects have a header and padding; the size of free space (index 0) includes both.
            is_object = head[at : at + 2] != b"\0\0"
            step = 16 + (size + 7) // 8 * 8 if is_object else size
            if step < 16 or at + step > end:
                raise OSError(f"a heap at byte {heap.start()} is broken")
            at += step
    return h5py.File(path, mode)


def outside_cause(error: BaseException) -> str | None:
    """Why a file whose content may be intact could not be read, and the remedy: the file is locked
    or forbidden, the process has no descriptor or memory left, or the disk does not answer.

    None for all other ``HDF5_ERRORS``: they prove that the content is damaged. Only a damaged file
    may be replaced, and only for such a file may a message ask the user to delete it.
    """
    message = one_line(error)
    number = error.errno if isinstance(error, OSError) else None
    if number is None and (match := _ERRNO.search(str(error))):  # only OSError has the attribute
        number = int(match[1])
    if isinstance(error, MemoryError):
        number = errno.ENOMEM
    if number is not None:
        return system_cause(number)
    for part, remedy in _OTHER_CAUSES.items():
        if part in message:
            return f"{message}; {remedy}, and run again"
    return None


def unreadable(path: str | Path, error: BaseException, remedy: str) -> UserError:
    """The error for an HDF5 file that cannot be read; ``remedy`` is for damaged content."""
    cause = outside_cause(error)
    if cause is not None:
        return UserError(f"{path}: cannot be accessed now: {cause}")
    return UserError(f"{path}: is damaged ({one_line(error)}); {remedy}")


def arrays_sha256(arrays: Mapping[str, NDArray[Any]]) -> str:
    """Hash of arrays with their names, types and shapes, sorted by name."""
    digest = hashlib.sha256()
    for name, values in sorted(arrays.items()):
        digest.update(f"{name} {values.dtype.str} {values.shape} ".encode())
        digest.update(np.ascontiguousarray(values).data)
    return digest.hexdigest()


def image_name_crc32(names: Iterable[str]) -> NDArray[np.uint32]:
    """CRC-32 (N,) of image names, which show whether a question file and a feature file have the
    same image at an index."""
    return np.array([zlib.crc32(name.encode()) for name in names], np.uint32)


#: CRC-32's table, and the index of the entry with a given top byte.
_TABLE = np.array([~zlib.crc32(bytes([i]), 2**32 - 1) & 2**32 - 1 for i in range(256)], np.uint32)
_BY_TOP = np.argsort(_TABLE >> 24).astype(np.uint32)
#: The usual endings of image files.
_ENDINGS = (b".png", b".jpg", b".jpeg", b".PNG", b".JPG", b".JPEG")


def name_the_same(ours: NDArray[np.uint32], theirs: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Whether names (N,), of which only the CRC-32 is known, are equal apart from their endings:
    ``CLEVR_val_000000.png`` in the JSON may be ``.jpg`` in the folder. Files of earlier versions
    record nothing else of the names."""
    same = ours == theirs
    if not same.all():
        stems = [[_without(checksums, end) for end in _ENDINGS] for checksums in (ours, theirs)]
        for one in stems[0]:
            for other in stems[1]:
                same = same | (one == other)
    return np.asarray(same)


def _without(checksums: NDArray[np.uint32], ending: bytes) -> NDArray[np.uint32]:
    """The CRC-32 (N,) of texts without an ending, from those of the whole texts. The top byte of a
    checksum tells which entry of the table the last step used."""
    state = ~checksums
    for byte in reversed(ending):
        entry = _BY_TOP[state >> 24]
        state = (state ^ _TABLE[entry]) << 8 | entry ^ byte
    return ~state


def names_sha256(names: Iterable[str]) -> str:
    """Hash of image names in index order, which ties a question file to its features."""
    return hashlib.sha256("\n".join(names).encode()).hexdigest()
