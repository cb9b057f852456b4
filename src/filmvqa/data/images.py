"""The images of a split: listed, checked and decoded."""

from __future__ import annotations

import re
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from filmvqa.errors import UserError, one_line

#: What is done about images that are not there: refuse the work, or leave them and their questions
#: out.
MISSING_IMAGES = ("refuse", "leave_out")
#: Larger images are refused: 300 times CLEVR's size.
MAX_PIXELS = 2**25
_PNG_MODES = {(8, 2), (8, 6)}  # depth and colour type: RGB and RGBA
_PNG_HEAD, _PNG_TAIL = b"\x89PNG\r\n\x1a\n", b"IEND\xaeB`\x82"
_MAKE_AGAIN = "delete it and run generate_clevr.py again, or fetch it again"


def list_images(folder: str | Path) -> list[Path]:
    """Images of a split in index order.

    Raises
    ------
    UserError
        For a missing folder, a gap in the indices, a file that is no image of the split, or a PNG
        header that is broken, of another colour type than CLEVR's or of another size than the
        first's: before hours are spent on the others.
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
            size = _frame_size(paths[0])
        elif (other := _frame_size(paths[i])) != size:
            raise UserError(
                f"{paths[i]}: has {other[0]}×{other[1]} pixels, {paths[0].name} "
                f"{size[0]}×{size[1]}; {_MAKE_AGAIN}"
            )
    return [paths[i] for i in range(len(paths))]


def _frame_size(path: Path) -> tuple[int, int]:
    """(width, height), by a PNG's header."""
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
    width, height, depth, color_type = struct.unpack(">IIBB", head[16:])
    if (depth, color_type) not in _PNG_MODES:
        raise UserError(
            f"{path}: not an image of 8 bits RGB or RGBA (PNG colour type {color_type}, "
            f"{depth} bits), as CLEVR's are; {_MAKE_AGAIN}"
        )
    if not 0 < width * height <= MAX_PIXELS:
        raise UserError(
            f"{path}: {width}×{height} pixels, more than the {MAX_PIXELS:,} that are read; "
            f"{_MAKE_AGAIN}"
        )
    return width, height


#: Raised by Pillow for files that it cannot read.
PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip


def load_image(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """An image of a data set as uint8 (3, H, W), ``size`` = (H, W), as ``resize_image`` makes it.

    Raises
    ------
    UserError
        If the file is no PNG or is broken.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return resize_image(image, size)
    except PILLOW_ERRORS as error:
        raise UserError(f"{path}: broken PNG ({one_line(error)}); {_MAKE_AGAIN}") from None


def resize_image(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """An image as uint8 (3, H, W), ``size`` = (H, W): without its alpha channel, resized with the
    bicubic filter if it has another size."""
    height, width = size
    rgb = image.convert("RGB")
    if rgb.size != (width, height):
        rgb = rgb.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(rgb).transpose(2, 0, 1)
