"""Pictures, read as viewers show them; and the images of a split, listed and checked."""

from __future__ import annotations

import re
import struct
import warnings
import zlib
from collections import Counter
from collections.abc import Callable, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from filmvqa.settings.typed import MissingImages
from filmvqa.system.errors import UserError, one_line
from filmvqa.system.files import is_litter, names_in
from filmvqa.system.layout import hint_at_deeper, image_number

#: Larger images are refused: 300 times CLEVR's size.
MAX_PIXELS = 2**25
_SUFFIXES = {".png", ".jpg", ".jpeg"}
#: Pillow's modes of images, and of masks.
_COLOURS, _GREY = {"RGB", "RGBA"}, {"L"}
#: The bytes that end a file.
_PNG_END, _JPEG_END = b"IEND\xaeB`\x82", b"\xff\xd9"
_MAKE_AGAIN = "delete it and run generate_clevr.py again, or fetch it again"
#: Greys of 16 bits that Pillow gives as integers of 32: mode and format.
_DEEP_INTEGERS = {("I", "PNG"), ("I", "PPM")}
_MAKE_IMAGES = (
    "download the images (scripts/download_clevr.py) or generate them (scripts/generate_clevr.py)"
)
#: EXIF's tag for how a picture is to be turned, and what its values mean.
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
#: What Pillow multiplies greys of few bits by, but not that which is transparent.
_FEW_BITS = {"L;2": 85, "L;4": 17}


def find_pictures(folder: Path) -> dict[int, Path]:
    """The images of a folder by index, to look at: unchecked, without those that share an index,
    and none if there is no folder."""
    names = [name for name in names_in(folder) if Path(name).suffix.lower() in _SUFFIXES]
    counts = Counter(map(image_number, names))
    return {i: folder / name for name in names
            if (i := image_number(name)) is not None and counts[i] == 1}  # fmt: skip


def read_picture(source: str | Path | IO[bytes], name: str | None = None) -> NDArray[np.uint8]:
    """The pixels (H, W, 3) of a picture of any format that Pillow knows, ``as_shown``.

    Raises
    ------
    UserError
        If it is missing or cannot be read, or as ``as_shown``; ``name`` is what it is called then.
    """
    name = name or str(source)
    try:
        with Image.open(source) as image:
            return np.asarray(as_shown(image, name))
    except FileNotFoundError:
        raise UserError(f"{name}: no such file; give the path of an image") from None
    except PILLOW_ERRORS as error:
        raise UserError(
            f"{name}: cannot be read as an image ({one_line(error)}); give a PNG or JPEG"
        ) from None


def as_shown(image: Image.Image, name: str) -> Image.Image:
    """A picture in RGB of 8 bits, as viewers show it: turned as EXIF says, greys of 16 bits scaled
    to 8, and over white where it is transparent.

    All pictures of files and of users come through here, so that one and the same picture has one
    and the same features, however it is stored and wherever it is asked about.

    Raises
    ------
    UserError
        For several frames, of which none is meant more than another, and for numbers of which
        nothing tells how bright they are (modes F and I).
    """
    # A photograph of several (MPO) has the others for depth or a preview.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise UserError(f"{name}: has several frames; save one of them as a PNG and give that")
    if 0 in image.size:
        raise UserError(f"{name}: has no pixels; give another picture")
    is_deep = image.mode.startswith("I;16") or (image.mode, image.format) in _DEEP_INTEGERS
    if image.mode in ("F", "I") and not is_deep:
        raise UserError(
            f"{name}: its pixels are numbers of 32 bits (mode {image.mode}), which do not tell "
            "what is white; convert them to 8 bits"
        )
    transparent, tiles = image.info.get("transparency"), getattr(image, "tile", None)
    few = tiles and _FEW_BITS.get(tiles[0][3])  # is known until the pixels are read
    image.load()
    shown = image
    if is_deep:
        values = np.asarray(image).astype(np.uint32)
        shown = Image.fromarray((values * 255 + 32895 >> 16).astype(np.uint8))  # as libpng rounds
        if transparent is not None:
            shown.putalpha(
                Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8))
            )
    elif few and transparent is not None:
        shown = image.copy()
        shown.info["transparency"] = few * transparent
    if shown.mode == "La":  # Pillow knows no shorter way
        shown = shown.convert("LA")
    if shown.has_transparency_data:
        shown = shown.convert("RGBA")
        if shown.getchannel("A").getextrema() != (255, 255):
            shown = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)
    return _turned(shown.convert("RGB"), _orientation(image))


def _orientation(image: Image.Image) -> int:
    """The value of EXIF's orientation; 1, upright, without a readable one."""
    try:
        with warnings.catch_warnings(action="ignore"):  # of what is broken there
            # A PNG's own method would decode all of it.
            return int(Image.Image.getexif(image).get(_ORIENTATION, 1))
    except Exception:
        return 1


def _turned(picture: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return picture if turn is None else picture.transpose(turn)


@dataclass(frozen=True)
class FileKind:
    """What the files of a split are: ``name`` in words, the ``suffixes`` of their names, ``size``,
    which reads from a file's header two numbers that all of a split share (and raises ``UserError``
    for a broken one), and ``said``, how these two are put in words."""

    name: str
    suffixes: Set[str]
    size: Callable[[Path], tuple[int, int]]
    said: str


def list_images(
    folder: str | Path,
    *,
    missing_images: MissingImages = "refuse",
    max_images: int | None = None,
    kind: FileKind | None = None,
) -> dict[int, Path]:
    """Images of a split by index, in the order of their indices, which need not begin at 0.

    What file managers, notebooks and unfinished transfers leave in a folder is passed over.

    Parameters
    ----------
    missing_images
        ``refuse`` gaps between the indices, or ``leave_out`` the images that are not there.
    max_images
        Take this many images from the first on; None: all.
    kind
        What the files are; None: images.

    Raises
    ------
    UserError
        For a missing folder, a gap in the indices, two images of one index, a file that is no image
        of the split, or a header that is broken, of another colour type than CLEVR's or of another
        size than the first's: before hours are spent on the others.
    OSError
        For a folder or file that cannot be read.
    """
    folder = Path(folder)
    kind = kind or IMAGES
    if not folder.is_dir():
        deeper = hint_at_deeper(folder.parent.parent, f"{folder.parent.name}/{folder.name}")
        raise UserError(f"{folder}: no such folder; {deeper or _MAKE_IMAGES}")
    by_index: dict[int, Path] = {}
    for path in sorted(folder.iterdir()):
        if is_litter(path.name):
            continue
        index = image_number(path.name)
        if index is None or index >= 2**31 or path.suffix.lower() not in kind.suffixes:
            raise UserError(f"{path}: is no image of this split; move it out of the folder")
        if index in by_index:
            raise UserError(
                f"{path}: has the index {index}, as {by_index[index].name} has; move one of them "
                "out of the folder"
            )
        by_index[index] = path
    if not by_index:
        raise UserError(f"{folder}: no images in it; download or generate them")
    images = {index: by_index[index] for index in sorted(by_index)[:max_images]}
    first, last = min(images), max(images)
    if missing_images == "refuse" and len(images) <= last - first:
        gap = next(index for index in range(first, last) if index not in images)
        nearest = str(images[gap - 1])
        absent = re.sub(r"\d+(?=\.\w+$)", lambda m: str(gap).zfill(len(m[0])), nearest)
        raise UserError(
            f"{absent}: missing, though the folder has {len(by_index)} images up to index "
            f"{max(by_index)}; add it, or give data.missing_images=leave_out"
        )
    size = kind.size(images[first])
    for path in images.values():
        if (other := kind.size(path)) != size:
            raise UserError(
                f"{path}: has {kind.said.format(*other)}, {images[first].name} "
                f"{kind.said.format(*size).removesuffix(' pixels')}; all {kind.name} of a split "
                "have one size, so resize it or move it out of the folder"
            )
    return images


def _frame_size(path: Path, modes: Set[str] = _COLOURS) -> tuple[int, int]:
    """(width, height), by the header of a PNG or JPEG file, whose end is there as well."""
    with open(path, "rb") as stream:
        try:
            image = Image.open(stream, formats=["PNG", "JPEG"])
        except Image.DecompressionBombError as error:
            raise UserError(f"{path}: {one_line(error)}; resize it") from None
        except PILLOW_ERRORS as error:
            raise _unreadable(
                path, error, "not a PNG or JPEG file, or broken at its start"
            ) from None
        width, height = image.size
        kind, end = ("PNG", _PNG_END) if image.format == "PNG" else ("JPEG", _JPEG_END)
        # As it is stored, which is "RGB;16B" for 16 bits.
        mode = image.tile[0][3] if kind == "PNG" else image.mode
        if getattr(image, "is_animated", False) and kind == "PNG":
            raise UserError(f"{path}: has several frames; save one of them as a PNG of its own")
        if mode not in modes:
            wanted = (
                "an image of 8 bits RGB or RGBA" if modes == _COLOURS else "a mask of 8 bits grey"
            )
            raise UserError(
                f"{path}: not {wanted}, as CLEVR's are (a {kind} of mode {mode}); convert it"
            )
        if not 0 < width * height <= MAX_PIXELS:
            raise UserError(
                f"{path}: {width}×{height} pixels, more than the {MAX_PIXELS:,} that are read; "
                "resize it"
            )
        stream.seek(-len(end), 2)
        if stream.read() != end:  # some programs append bytes of their own
            stream.seek(0)
            if end not in stream.read():
                raise UserError(f"{path}: truncated {kind}; {_MAKE_AGAIN}")
        return (height, width) if _orientation(image) >= 5 else (width, height)


IMAGES = FileKind("images", _SUFFIXES, _frame_size, "{}×{} pixels")
#: Masks, whose pixels are the indices of objects in the scene, and 255 where there is none.
MASKS = FileKind("masks", {".png"}, partial(_frame_size, modes=_GREY), "{}×{} pixels")
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
        If the file is no PNG or JPEG, or is broken.
    OSError
        If it cannot be read.
    """
    return _loaded(path, lambda image: resize_picture(as_shown(image, str(path)), size))


def load_mask(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A mask of a data set as uint8 (1, H, W), ``size`` = (H, W): each value is that of the nearest
    pixel, since between the indices of two objects lies no third.

    Raises
    ------
    UserError, OSError
        As ``load_image``.
    """
    height, width = size

    def read(image: Image.Image) -> NDArray[np.uint8]:
        image.load()
        mask = _turned(image, _orientation(image))
        return np.asarray(mask.resize((width, height), Image.Resampling.NEAREST))[None]

    return _loaded(path, read)


def _loaded(path: Path, read: Callable[[Image.Image], NDArray[np.uint8]]) -> NDArray[np.uint8]:
    with open(path, "rb") as stream:
        try:
            with Image.open(stream, formats=["PNG", "JPEG"]) as image:
                return read(image)
        except PILLOW_ERRORS as error:
            kind = "PNG" if path.suffix.lower() == ".png" else "JPEG"
            raise _unreadable(path, error, f"broken {kind} ({one_line(error)})") from None


def _unreadable(path: Path, error: BaseException, problem: str) -> Exception:
    if isinstance(error, OSError) and error.errno is not None:  # the system's, not Pillow's
        return OSError(error.errno, error.strerror, str(path))
    return UserError(f"{path}: {problem}; {_MAKE_AGAIN}")


def resize_picture(picture: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """A picture in RGB as uint8 (3, H, W), ``size`` = (H, W): resized with the bicubic filter if it
    has another size."""
    height, width = size
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture).transpose(2, 0, 1)
