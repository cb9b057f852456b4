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

#: The largest number of pixels of an image: 300 times CLEVR's size.
MAX_PIXELS = 2**25
_SUFFIXES = {".png", ".jpg", ".jpeg"}
#: Pillow's modes of images and of masks.
_COLOURS, _GREY = {"RGB", "RGBA"}, {"L"}
#: The last bytes of a file.
_PNG_END, _JPEG_END = b"IEND\xaeB`\x82", b"\xff\xd9"
_MAKE_AGAIN = "delete it and run generate_clevr.py again, or fetch it again"
#: Formats whose 16-bit grey Pillow reads as 32-bit integers: mode and format.
_DEEP_INTEGERS = {("I", "PNG"), ("I", "PPM")}
_MAKE_IMAGES = (
    "download the images (scripts/download_clevr.py) or generate them (scripts/generate_clevr.py)"
)
#: EXIF's tag for the orientation of a picture, and the transformations that its values mean.
_ORIENTATION = 0x0112
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT, 3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM, 5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270, 7: Image.Transpose.TRANSVERSE, 8: Image.Transpose.ROTATE_90,
}  # fmt: skip
#: Pillow scales greys of few bits by this factor, but not the transparent grey.
_FEW_BITS = {"L;2": 85, "L;4": 17}


def find_pictures(folder: Path) -> dict[int, Path]:
    """Find the images of a folder by index, unchecked, without images that share an index.

    A missing folder has no images.
    """
    names = [name for name in names_in(folder) if Path(name).suffix.lower() in _SUFFIXES]
    counts = Counter(map(image_number, names))
    return {i: folder / name for name in names
            if (i := image_number(name)) is not None and counts[i] == 1}  # fmt: skip


def read_picture(source: str | Path | IO[bytes], name: str | None = None) -> NDArray[np.uint8]:
    """Read the pixels (H, W, 3) of a picture of any format that Pillow knows, ``as_shown``.

    Raises
    ------
    UserError
        If the picture is missing or unreadable, or ``as_shown`` refuses it. The message calls it
        ``name``.
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
    """Convert a picture to 8-bit RGB, as viewers show it.

    It is turned as EXIF says; 16-bit grey is scaled to 8 bits; transparent parts are put over
    white. All pictures, from files and from users, pass through here, so that the features of a
    picture do not depend on its format.

    Raises
    ------
    UserError
        If the picture has several frames, or values without a defined brightness (modes F and I).
    """
    # The other frames of an MPO photograph are for depth or preview.
    # A photograph of several (MPO) has the others for depth or a preview.
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise UserError(f"{name}: has several frames; save one of them as a PNG and give that")
    if 0 in image.size:
        raise UserError(f"{name}: has no pixels; give another picture")
    is_deep = image.mode.startswith("I;16") or (image.mode, image.format) in _DEEP_INTEGERS
    if image.mode in ("F", "I") and not is_deep:
        raise UserError(
            f"{name}: its pixels are 32-bit numbers (mode {image.mode}) without a defined white; "
            "convert them to 8 bits"
        )
    transparent, tiles = image.info.get("transparency"), getattr(image, "tile", None)
    few = tiles and _FEW_BITS.get(tiles[0][3])  # known only before the pixels are loaded
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
    if shown.mode == "La":  # Pillow converts it only in two steps
        shown = shown.convert("LA")
    if shown.has_transparency_data:
        shown = shown.convert("RGBA")
        if shown.getchannel("A").getextrema() != (255, 255):
            shown = Image.alpha_composite(Image.new("RGBA", shown.size, "white"), shown)
    return _turned(shown.convert("RGB"), _orientation(image))


def _orientation(image: Image.Image) -> int:
    """The EXIF orientation; 1 (upright) if there is none, or it is unreadable."""
    try:
        with warnings.catch_warnings(action="ignore"):  # about broken EXIF
            # The method of PNG images would decode the whole image.
            return int(Image.Image.getexif(image).get(_ORIENTATION, 1))
    except Exception:
        return 1


def _turned(picture: Image.Image, orientation: int) -> Image.Image:
    turn = _TURNS.get(orientation)
    return picture if turn is None else picture.transpose(turn)


@dataclass(frozen=True)
class FileKind:
    """A kind of file that a split has.

    Attributes
    ----------
    name
        The plural noun.
    suffixes
        The endings of file names.
    size
        Reads two numbers from a file's header that all files of a split must share; raises
        ``UserError`` if the header is broken.
    size_text
        Format of these two numbers in messages.
    """

    name: str
    suffixes: Set[str]
    size: Callable[[Path], tuple[int, int]]
    size_text: str


def list_images(
    folder: str | Path,
    *,
    missing_images: MissingImages = "refuse",
    max_images: int | None = None,
    kind: FileKind | None = None,
) -> dict[int, Path]:
    """List the images of a split by index, in ascending order. Indices may start at any number.

    Files left by file managers, notebooks and unfinished transfers are skipped.

    Parameters
    ----------
    missing_images
        ``refuse`` gaps between indices, or ``leave_out`` the missing images.
    max_images
        List only this many images, from the first on; None: all.
    kind
        The kind of the files; None: images.

    Raises
    ------
    UserError
        If the folder is missing; indices have a gap; two images share an index; a file is not an
        image of the split; or a header is broken, of another colour mode than CLEVR's or of another
        size than the first image's. All headers are checked before the first image is decoded.
    OSError
        If a folder or file cannot be read.
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
            raise UserError(f"{path}: is not an image of this split; move it out of the folder")
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
                f"{path}: has {kind.size_text.format(*other)}, {images[first].name} "
                f"{kind.size_text.format(*size).removesuffix(' pixels')}; all {kind.name} of a "
                "split have one size, so resize it or move it out of the folder"
            )
    return images


def _frame_size(path: Path, modes: Set[str] = _COLOURS) -> tuple[int, int]:
    """Read (width, height) from the header of a complete PNG or JPEG file."""
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
        # The mode in the file, such as "RGB;16B" for 16 bits.
        mode = image.tile[0][3] if kind == "PNG" else image.mode
        if getattr(image, "is_animated", False) and kind == "PNG":
            raise UserError(f"{path}: has several frames; save one of them as a PNG")
        if mode not in modes:
            wanted = (
                "an image of 8 bits RGB or RGBA" if modes == _COLOURS else "a mask of 8 bits grey"
            )
            raise UserError(
                f"{path}: not {wanted} like CLEVR's (a {kind} of mode {mode}); convert it"
            )
        if not 0 < width * height <= MAX_PIXELS:
            raise UserError(
                f"{path}: {width}×{height} pixels, more than the {MAX_PIXELS:,} that are read; "
                "resize it"
            )
        stream.seek(-len(end), 2)
        if stream.read() != end:  # some programs append bytes
            stream.seek(0)
            if end not in stream.read():
                raise UserError(f"{path}: truncated {kind}; {_MAKE_AGAIN}")
        return (height, width) if _orientation(image) >= 5 else (width, height)


IMAGES = FileKind("images", _SUFFIXES, _frame_size, "{}×{} pixels")
#: Masks: each pixel is the index of an object in the scene, or 255 for none.
MASKS = FileKind("masks", {".png"}, partial(_frame_size, modes=_GREY), "{}×{} pixels")
#: Errors that Pillow raises for files that it cannot read.
PILLOW_ERRORS = (
    OSError, SyntaxError, ValueError, TypeError, struct.error, zlib.error,
    Image.DecompressionBombError,
)  # fmt: skip


def load_image(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Load an image of a data set, resized, as uint8 (3, H, W); ``size`` is (H, W).

    Raises
    ------
    UserError
        If the file is not a PNG or JPEG, or is broken.
    OSError
        If the file cannot be read.
    """
    return _loaded(path, lambda image: resize_picture(as_shown(image, str(path)), size))


def load_mask(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Load a mask of a data set, resized, as uint8 (1, H, W); ``size`` is (H, W).

    Each value is that of the nearest pixel, because indices of objects cannot be interpolated.

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
    if isinstance(error, OSError) and error.errno is not None:  # from the system, not Pillow
        return OSError(error.errno, error.strerror, str(path))
    return UserError(f"{path}: {problem}; {_MAKE_AGAIN}")


def resize_picture(picture: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Resize an RGB picture with the bicubic filter to uint8 (3, H, W); ``size`` is (H, W).

    A picture that already has this size is unchanged.
    """
    height, width = size
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    return np.asarray(picture).transpose(2, 0, 1)
