"""Images to feature HDF5: decoding and writing in threads beside the network."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from filmvqa.data.backbones import Backbone
from filmvqa.data.hdf5 import HDF5_ERRORS
from filmvqa.data.preprocess import names_sha256
from filmvqa.data.rows import all_finite, create_rows, row_offsets
from filmvqa.data.store import CHECKSUMS, FORMAT
from filmvqa.devices import to_device, use_bfloat16
from filmvqa.disk import NO_ROOM, disk_full_error
from filmvqa.errors import UserError, one_line, warn
from filmvqa.files import refuse_overwriting, sync_folder
from filmvqa.locks import file_lock

#: A file that says it has more is refused: 300 times CLEVR's.
MAX_PIXELS = 2**25
_PNG_MODES = {(8, 2), (8, 6)}  # depth and colour type: RGB and RGBA
_PNG_HEAD, _PNG_TAIL = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_MAKE_AGAIN = "delete it and run generate_clevr.py again, or fetch it again"


def list_images(folder: str | Path) -> list[Path]:
    """Images of a split in index order.

    Raises
    ------
    UserError
        For a missing folder, a gap in the indices, a file that is no image of the split, or one
        whose PNG head is broken, of another kind than CLEVR's or of another size than the first's:
        found before hours are spent on the others.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(
            f"{folder}: no such folder; download the images (scripts/download_clevr.py) or "
            "generate them (scripts/generate_clevr.py)"
        )
    paths: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        match = re.fullmatch(r"\w+?_(\d+)\.png", path.name)
        if match is None or int(match[1]) in paths:
            raise UserError(f"{path}: is no image of this split; move it out of the folder")
        paths[int(match[1])] = path
    if not paths:
        raise UserError(f"{folder}: no images in it; download or generate them")
    for i in range(len(paths)):
        if i not in paths:
            nearest = min(paths, key=lambda j: abs(j - i))
            missing = re.sub(r"\d+(?=\.png$)", f"{i:06d}", str(paths[nearest]))
            raise UserError(
                f"{missing}: missing, though the folder has {len(paths)} images up to index "
                f"{max(paths)}; fetch it, or run generate_clevr.py again"
            )
        if i == 0:
            size = _check_frame(paths[0])
        elif (found := _check_frame(paths[i])) != size:
            raise UserError(
                f"{paths[i]}: is {found[0]}×{found[1]} pixels large, {paths[0].name} "
                f"{size[0]}×{size[1]}; {_MAKE_AGAIN}"
            )
    return [paths[i] for i in range(len(paths))]


def _check_frame(path: Path) -> tuple[int, int]:
    """The (width, height) that a PNG's head tells."""
    try:
        with open(path, "rb") as stream:
            head = stream.read(26)
            stream.seek(0, 2)
            stream.seek(max(0, stream.tell() - 8))
            tail = stream.read()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; {_MAKE_AGAIN}") from None
    if head[:8] != _PNG_HEAD or head[12:16] != b"IHDR":
        raise UserError(f"{path}: not a PNG; {_MAKE_AGAIN}")
    if tail != _PNG_TAIL:
        raise UserError(f"{path}: truncated PNG; {_MAKE_AGAIN}")
    width, height, depth, kind = struct.unpack(">IIBB", head[16:])
    if (depth, kind) not in _PNG_MODES:
        raise UserError(
            f"{path}: not an image of 8 bits RGB or RGBA (PNG colour type {kind}, {depth} bits), "
            f"as CLEVR's are; {_MAKE_AGAIN}"
        )
    if not 0 < width * height <= MAX_PIXELS:
        raise UserError(
            f"{path}: {width}×{height} pixels, more than the {MAX_PIXELS:,} that are read; "
            f"{_MAKE_AGAIN}"
        )
    return width, height


def load_image(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """An image as uint8 (3, H, W), ``size`` = (H, W); resized with the bicubic filter if it
    has another size, its alpha channel dropped."""
    height, width = size
    try:
        with Image.open(path, formats=["PNG"]) as image:
            rgb = image.convert("RGB")
            if rgb.size != (width, height):
                rgb = rgb.resize((width, height), Image.Resampling.BICUBIC)
            return np.asarray(rgb).transpose(2, 0, 1)
    # Pillow has half a dozen kinds for a file that it cannot read.
    except (OSError, SyntaxError, ValueError, TypeError, struct.error, zlib.error,
            Image.DecompressionBombError) as error:  # fmt: skip
        raise UserError(f"{path}: broken PNG ({one_line(error)}); {_MAKE_AGAIN}") from None


class Extraction:
    """The features of one split's images, looked into but not yet made.

    ``path`` is where they go, ``shape`` (N, C, H, W) what they will be, ``needs`` the bytes that
    are still to be written: 0 if they are there already, which ``was_there`` says.

    Parameters
    ----------
    threads
        Decode so many images beside the network.
    precision
        In which the network runs; ``auto`` keeps to that of what is there already.

    Raises
    ------
    UserError
        For images that ``list_images`` refuses, and a target with features made otherwise.
    """

    def __init__(
        self,
        images_folder: str | Path,
        target: str | Path,
        split: str,
        backbone: Backbone,
        image_size: tuple[int, int],
        *,
        batch_size: int = 64,
        threads: int = 2,
        device: torch.device | str = "cpu",
        precision: str = "auto",
    ) -> None:
        self.path, self.split, self.image_size = Path(target), split, image_size
        self.batch_size, self.threads = batch_size, threads
        refuse_overwriting(self.path, images_folder)
        self._partial = self.path.with_name(self.path.name + ".partial")
        self._images = list_images(images_folder)
        device = torch.device(device)
        if precision == "auto":
            found = (_recorded_precision(path) for path in (self.path, self._partial))
            precision = next((each for each in found if each is not None), precision)
        bfloat16 = use_bfloat16(device, precision)
        self._about = {
            "format": FORMAT,
            "split": split,
            "backbone": backbone.name,
            "weights": backbone.weights,
            "weights_sha256": backbone.weights_sha256,
            "stage": backbone.stage,
            "image_size": np.array(image_size, np.int64),
            "mean": backbone.mean.flatten().numpy() / 255.0,
            "std": backbone.std.flatten().numpy() / 255.0,
            "image_names_sha256": names_sha256(path.name for path in self._images),
            "precision": "bfloat16" if bfloat16 else "float32",
        }
        self._backbone = backbone.prepared(device, bfloat16)
        probe = _maps(self._backbone, torch.zeros(1, 3, *image_size, dtype=torch.uint8))
        self.dtype = backbone.dtype
        self.shape = (len(self._images), *probe.shape[1:])
        self.was_there = self.path.exists()
        if self.was_there:
            self._check_target()

    def _check_target(self) -> None:
        try:
            with h5py.File(self.path, "r") as file:
                changed = _changed(file, self._about)
                if changed is None and file["features"].shape != self.shape:
                    changed = "shape"
        except HDF5_ERRORS as error:
            raise UserError(
                f"{self.path}: not a readable HDF5 file ({one_line(error)}); delete it"
            ) from None
        if changed is not None:
            raise UserError(
                f"{self.path}: holds features of another {changed}; delete it to make them again"
            )

    @property
    def needs(self) -> int:
        """Bytes that are still to be written."""
        if self.path.exists():
            return 0
        rows = int(np.prod(self.shape)) * np.dtype(self.dtype).itemsize
        there = self._partial.stat().st_blocks * 512 if self._partial.exists() else 0
        return max(0, rows - there)

    def run(self) -> Extraction:
        """Make the features, if they are not there; returns itself.

        Images are decoded in threads, and features written by another, beside the network. Work in
        progress lies in ``<target>.partial``, which says in ``num_done`` how many images it holds
        and is gone on with; the target appears when it is complete.

        Raises
        ------
        UserError
            For a broken image, features that are not finite, or a full disk; what is done is kept.
        """
        if not self.was_there:
            with file_lock(self.path):
                if not self.path.exists():  # another process may have made it meanwhile
                    self._extract()
        return self

    def _extract(self) -> None:
        count = len(self._images)
        with self._resume_or_start() as file, _RowWriter(file, self._partial) as target:
            done = target.done
            bar = tqdm(total=count, initial=done, desc=f"{self.split} features", unit="image")
            with bar, ThreadPoolExecutor(1) as writer:
                writing: deque[Future[int]] = deque()
                todo = self._images[done:]
                for images in _batches(todo, self.batch_size, self.image_size, self.threads):
                    maps = _maps(self._backbone, images)  # a GPU may not have computed them yet
                    writing.append(writer.submit(target.write, maps))
                    if len(writing) > 2:
                        bar.update(writing.popleft().result())
                while writing:
                    bar.update(writing.popleft().result())
        self._partial.replace(self.path)
        sync_folder(self.path.parent)

    def _resume_or_start(self) -> h5py.File:
        if self._partial.exists():
            try:
                file = h5py.File(self._partial, "r+")
                if _changed(file, self._about) is None and (
                    file["features"].shape == self.shape
                    and 0 <= int(file.attrs["num_done"]) <= self.shape[0]
                ):
                    return file
                file.close()
                reason = "was made otherwise"
            except HDF5_ERRORS as error:
                reason = f"is not readable ({one_line(error)})"
            warn(f"{self._partial}: {reason}; extraction begins anew")
            self._partial.unlink()
        # Appears only when all that HDF5 keeps for itself is on the disk.
        beside = self._partial.with_name(f".{self._partial.name}.tmp")
        with h5py.File(beside, "w") as file:
            create_rows(file, "features", self.shape, self.dtype, one_chunk_a_row=True)
            create_rows(file, CHECKSUMS, self.shape[:1], "uint32", one_chunk_a_row=False)
            file.attrs.update(self._about)
            file.attrs["num_done"] = 0
        with open(beside, "rb") as stream:
            os.fsync(stream.fileno())
        beside.replace(self._partial)
        return h5py.File(self._partial, "r+")


class _RowWriter:
    """Writes maps behind those that a file holds, past HDF5; each is counted in ``num_done`` only
    when it is on the disk."""

    def __init__(self, file: h5py.File, path: Path) -> None:
        self._file, self._path = file, path
        self.done = int(file.attrs["num_done"])
        offsets = row_offsets(file["features"])
        if offsets is None:
            raise UserError(f"{path}: cannot be written in place; delete it and run again")
        self._offsets = offsets
        self._handle = os.open(path, os.O_RDWR)

    def __enter__(self) -> _RowWriter:
        return self

    def __exit__(self, *error: object) -> None:
        os.close(self._handle)

    def write(self, maps: Tensor) -> int:
        """Append maps (n, C, H', W'); returns n."""
        rows = maps.cpu().numpy()
        first, last = self.done, self.done + len(rows)
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
                _write_at(self._handle, row.reshape(-1).view(np.uint8).data, offset)
            os.fsync(self._handle)
        except OSError as error:
            if error.errno in NO_ROOM:
                left = int(rows[0].nbytes) * (len(self._offsets) - first)
                raise disk_full_error(self._path, left, error) from None
            raise
        self._file[CHECKSUMS][first:last] = checksums
        self._file.flush()
        self._file.attrs.modify("num_done", last)
        self._file.flush()
        self.done = last
        return len(rows)


def _recorded_precision(path: Path) -> str | None:
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs["precision"])
    except (OSError, KeyError):
        return None


@torch.inference_mode()
def _maps(backbone: Backbone, images: Tensor) -> Tensor:
    """uint8 images (n, 3, H, W) on the host to maps (n, C, H', W') on the device, as stored."""
    maps: Tensor = backbone(to_device(images, backbone.mean.device))
    return maps.to(getattr(torch, backbone.dtype), memory_format=torch.contiguous_format)


def _write_at(handle: int, buffer: memoryview, offset: int) -> None:
    while buffer:
        written = os.pwrite(handle, buffer, offset)
        buffer, offset = buffer[written:], offset + written


def _batches(
    paths: Sequence[Path], batch_size: int, size: tuple[int, int], threads: int
) -> Iterator[Tensor]:
    """Batches of decoded images (n, 3, H, W), channels last; the next two are decoded while one
    is used."""
    starts = range(0, len(paths), batch_size)
    with ThreadPoolExecutor(threads) as pool:

        def submit(first: int) -> list[Future[NDArray[np.uint8]]]:
            return [pool.submit(load_image, p, size) for p in paths[first : first + batch_size]]

        waiting = [submit(first) for first in starts[:2]]
        for first in [*starts[2:], None, None][: len(starts)]:
            jobs = waiting.pop(0)
            if first is not None:
                waiting.append(submit(first))
            # Stacked as they were decoded, (H, W, 3) each: channels last at no cost.
            images = np.stack([job.result().transpose(1, 2, 0) for job in jobs])
            yield torch.from_numpy(images).permute(0, 3, 1, 2)


def _changed(file: h5py.File, about: dict[str, Any]) -> str | None:
    for key, value in about.items():
        if key not in file.attrs or not np.array_equal(file.attrs[key], value):
            return key.replace("_", " ")
    return None
