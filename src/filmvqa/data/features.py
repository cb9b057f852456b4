"""Images to feature HDF5: decoding and writing in threads beside the network."""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from tqdm import tqdm

from filmvqa.data.backbones import Backbone
from filmvqa.data.preprocess import names_sha256
from filmvqa.device import send, use_bfloat16
from filmvqa.errors import UserError

FORMAT = "filmvqa-features-1"
_PNG_HEAD, _PNG_TAIL = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_MAKE_AGAIN = "delete it and run generate_clevr.py again, or fetch it again"


@dataclass(frozen=True)
class Extracted:
    """The feature file of a split: its shape (N, C, H, W), and whether it was there already."""

    path: Path
    shape: tuple[int, ...]
    was_there: bool


def list_images(folder: str | Path) -> list[Path]:
    """Images of a split in index order.

    Raises
    ------
    UserError
        For a missing folder, a gap in the indices, a file that is no image of the split, or one
        whose PNG frame is broken: found before hours are spent on the others.
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
        _check_frame(paths[i])
    return [paths[i] for i in range(len(paths))]


def _check_frame(path: Path) -> None:
    with open(path, "rb") as stream:
        head = stream.read(8)
        if head != _PNG_HEAD:
            raise UserError(f"{path}: not a PNG; {_MAKE_AGAIN}")
        stream.seek(0, 2)
        stream.seek(max(0, stream.tell() - 8))
        if stream.read() != _PNG_TAIL:
            raise UserError(f"{path}: truncated PNG; {_MAKE_AGAIN}")


def load_image(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """An image as uint8 (3, H, W), ``size`` = (H, W); resized with the bicubic filter if it
    has another size, its alpha channel dropped."""
    height, width = size
    try:
        with Image.open(path) as image:
            rgb = image.convert("RGB")
            if rgb.size != (width, height):
                rgb = rgb.resize((width, height), Image.Resampling.BICUBIC)
            return np.asarray(rgb).transpose(2, 0, 1)
    except (OSError, SyntaxError, ValueError, UnidentifiedImageError) as error:
        raise UserError(f"{path}: broken PNG ({error}); {_MAKE_AGAIN}") from None


def extract_features(
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
) -> Extracted:
    """Run the backbone over a split's images, in index order, into ``target``.

    Images are decoded by ``threads``, and features written by another, beside the network. Work in
    progress lies in ``<target>.partial``, which says in ``num_done`` how many images it holds and
    is gone on with; ``target`` appears when it is complete. What is there already was made in a
    precision that ``auto`` keeps to.
    """
    target, device = Path(target), torch.device(device)
    partial = target.with_name(target.name + ".partial")
    paths = list_images(images_folder)
    if precision == "auto":
        precision = _recorded_precision(target) or _recorded_precision(partial) or precision
    bfloat16 = use_bfloat16(device, precision)
    about = {
        "format": FORMAT,
        "split": split,
        "backbone": backbone.name,
        "weights": backbone.weights,
        "weights_sha256": backbone.weights_sha256,
        "stage": backbone.stage,
        "image_size": np.array(image_size, np.int64),
        "mean": backbone.mean.flatten().numpy() / 255.0,
        "std": backbone.std.flatten().numpy() / 255.0,
        "image_names_sha256": names_sha256(path.name for path in paths),
        "precision": "bfloat16" if bfloat16 else "float32",
    }
    if target.exists():
        with _open(target, "r") as file:
            changed = _changed(file, about)
            if changed is None:
                return Extracted(target, file["features"].shape, was_there=True)
        raise UserError(
            f"{target}: holds features of another {changed}; delete it to make them again"
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    ready = backbone.prepared(device, bfloat16)
    with _resume_or_start(partial, about, ready, image_size, len(paths)) as file:
        done = int(file.attrs["num_done"])
        bar = tqdm(total=len(paths), initial=done, desc=f"{split} features", unit="image")
        with bar, ThreadPoolExecutor(1) as writer:
            writing: deque[Future[int]] = deque()
            for images in _batches(paths, done, batch_size, image_size, threads):
                maps = _maps(ready, images)  # a GPU may not have computed them yet
                writing.append(writer.submit(_write, file, done, maps))
                done += len(maps)
                if len(writing) > 2:
                    bar.update(writing.popleft().result())
            while writing:
                bar.update(writing.popleft().result())
        shape = file["features"].shape
    partial.replace(target)
    return Extracted(target, shape, was_there=False)


def _recorded_precision(path: Path) -> str | None:
    try:
        with h5py.File(path, "r") as file:
            return str(file.attrs["precision"])
    except (OSError, KeyError):
        return None


@torch.inference_mode()
def _maps(backbone: Backbone, images: Tensor) -> Tensor:
    """uint8 images (n, 3, H, W) on the host to maps (n, C, H', W') on the device, as stored."""
    maps: Tensor = backbone(send(images, backbone.mean.device))
    return maps.to(getattr(torch, backbone.dtype), memory_format=torch.contiguous_format)


def _write(file: h5py.File, first: int, maps: Tensor) -> int:
    """Write maps (n, C, H', W') from row ``first`` on; ``num_done`` follows when they are there."""
    file["features"][first : first + len(maps)] = maps.cpu().numpy()
    file.flush()
    file.attrs["num_done"] = first + len(maps)
    file.flush()
    return len(maps)


def _batches(
    paths: Sequence[Path], start: int, batch_size: int, size: tuple[int, int], threads: int
) -> Iterator[Tensor]:
    """Batches of decoded images (n, 3, H, W), channels last; the next two are decoded while one
    is used."""
    starts = range(start, len(paths), batch_size)
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


def _open(path: Path, mode: str) -> h5py.File:
    try:
        return h5py.File(path, mode)
    except OSError as error:
        raise UserError(f"{path}: not a readable HDF5 file ({error}); delete it") from None


def _changed(file: h5py.File, about: dict[str, Any]) -> str | None:
    for key, value in about.items():
        if key not in file.attrs or not np.array_equal(file.attrs[key], value):
            return key.replace("_", " ")
    return None


def _resume_or_start(
    partial: Path,
    about: dict[str, Any],
    backbone: Backbone,
    image_size: tuple[int, int],
    count: int,
) -> h5py.File:
    if partial.exists():
        try:
            file = h5py.File(partial, "r+")
            if _changed(file, about) is None and len(file["features"]) == count:
                return file
            file.close()
        except (OSError, KeyError):
            pass  # killed while HDF5 wrote its own tables: nothing in it can be trusted
        partial.unlink()
    device = backbone.mean.device
    with torch.inference_mode():
        probe = backbone(torch.zeros(1, 3, *image_size, dtype=torch.uint8, device=device))
    shape = tuple(probe.shape[1:])
    file = h5py.File(partial, "w", libver="latest")
    file.create_dataset("features", (count, *shape), backbone.dtype, chunks=(1, *shape))
    file.attrs.update(about)
    file.attrs["num_done"] = 0
    file.flush()
    return file
