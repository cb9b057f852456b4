"""A picture in any format gives the pixels that viewers show."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from filmvqa.features.images import as_shown, list_images, load_image, load_mask, read_picture
from filmvqa.page.subjects import read_upload
from filmvqa.system.errors import UserError
from tests.conftest import examples

UPRIGHT = np.random.default_rng(0).integers(0, 256, (16, 24, 3), np.uint8)
#: How a picture is stored with each EXIF orientation.
STORED = {
    1: lambda p: p, 2: lambda p: p[:, ::-1], 3: lambda p: p[::-1, ::-1], 4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1), 6: lambda p: np.rot90(p, 1), 7: lambda p: np.rot90(p.swapaxes(0, 1), 2),
    8: lambda p: np.rot90(p, -1),
}  # fmt: skip


def encoded(image: Image.Image, format: str = "PNG", **options) -> bytes:
    stream = io.BytesIO()
    image.save(stream, format, **options)
    return stream.getvalue()


def turned(orientation: int, picture: np.ndarray = UPRIGHT, **options) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](picture)))
    return encoded(stored, **({"format": "PNG"} | options), exif=exif)


def shown(content: bytes) -> np.ndarray:
    return read_picture(io.BytesIO(content), "x")


def png(depth: int, kind: int, width: int, rows: bytes, transparent: bytes = b"") -> bytes:
    """Write a PNG of a type that Pillow does not write."""

    def chunk(name: bytes, data: bytes) -> bytes:
        checksum = struct.pack(">I", zlib.crc32(name + data))
        return struct.pack(">I", len(data)) + name + data + checksum

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", width, 1, depth, kind, 0, 0, 0))
        + (chunk(b"tRNS", transparent) if transparent else b"")
        + chunk(b"IDAT", zlib.compress(b"\0" + rows))
        + chunk(b"IEND", b"")
    )


@pytest.mark.parametrize("orientation", STORED)
@pytest.mark.parametrize("format", ["PNG", "TIFF", "WEBP"])
def test_pictures_are_turned_by_exif(tmp_path: Path, orientation: int, format: str) -> None:
    """By each function that reads pixels."""
    options = {"lossless": True} if format == "WEBP" else {}
    content = turned(orientation, format=format, **options)
    assert np.array_equal(shown(content), UPRIGHT)
    if format == "PNG":
        path = tmp_path / "x_000000.png"
        path.write_bytes(content)
        assert list(list_images(tmp_path)) == [0]
        assert np.array_equal(load_image(path, (16, 24)).transpose(1, 2, 0), UPRIGHT)
        assert np.array_equal(read_upload(content, "x.png").picture, UPRIGHT)
        path.write_bytes(turned(orientation, UPRIGHT[..., 0]))
        assert np.array_equal(load_mask(path, (16, 24))[0], UPRIGHT[..., 0])


def test_images_of_a_split_have_one_size_after_turning(tmp_path: Path) -> None:
    (tmp_path / "x_0.jpg").write_bytes(turned(6, format="JPEG"))
    (tmp_path / "x_1.png").write_bytes(encoded(Image.fromarray(UPRIGHT)))
    assert len(list_images(tmp_path)) == 2
    (tmp_path / "x_1.png").write_bytes(turned(6))
    assert len(list_images(tmp_path)) == 2
    (tmp_path / "x_1.png").write_bytes(encoded(Image.fromarray(STORED[6](UPRIGHT).copy())))
    with pytest.raises(UserError, match=r"x_1\.png: has 16×24 pixels, x_0\.jpg 24×16"):
        list_images(tmp_path)


@pytest.mark.parametrize("exif", [b"", b"Exif\0\0", b"Exif\0\0II*\0garbage!" * 3, b"nothing"])
def test_broken_exif_is_ignored(exif: bytes) -> None:
    assert np.array_equal(shown(encoded(Image.fromarray(UPRIGHT), exif=exif)), UPRIGHT)


GREY = UPRIGHT[..., 0]


def of_16_bits(format: str) -> bytes:
    return encoded(Image.fromarray(GREY.astype(np.uint16) * 257), format)


STORED_GREY: dict[str, Callable[[], bytes]] = {
    "8 bits": lambda: encoded(Image.fromarray(GREY)),
    "16 bits": lambda: of_16_bits("PNG"),
    "16 bits, TIFF": lambda: of_16_bits("TIFF"),
    "16 bits, PGM": lambda: of_16_bits("PPM"),
    "big-endian TIFF": lambda: encoded(
        Image.frombytes("I;16B", (24, 16), (GREY.astype(">u2") * 257).tobytes()), "TIFF"
    ),
    "with alpha": lambda: encoded(Image.fromarray(GREY).convert("LA")),
    "palette": lambda: encoded(Image.fromarray(GREY).convert("P")),
}


@pytest.mark.parametrize("kind", STORED_GREY)
def test_grey_of_any_format(kind: str) -> None:
    assert np.array_equal(shown(STORED_GREY[kind]()), np.stack([GREY] * 3, 2))


def test_sixteen_bits_are_rounded() -> None:
    values = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    assert np.array_equal(shown(encoded(Image.fromarray(values)))[..., 0], np.round(values / 257))


@given(colours=st.lists(st.tuples(*[st.integers(0, 255)] * 3), min_size=2, max_size=2),
       alpha=st.integers(0, 255), mode=st.sampled_from(["RGBA", "RGBa", "LA", "La"]))  # fmt: skip
@examples(60)
def test_transparent_parts_are_put_over_white(colours, alpha: int, mode: str) -> None:
    """Opaque parts stay; hidden colours have no effect."""
    picture = np.concatenate([UPRIGHT, np.full((16, 24, 1), 255, np.uint8)], 2)
    pictures = []
    for colour in colours:
        picture[:4, :, :3], picture[:4, :, 3] = colour, alpha
        image = Image.fromarray(picture)
        image = image.convert("LA").convert(mode) if mode in ("LA", "La") else image.convert(mode)
        pictures.append(np.asarray(as_shown(image, "x")))
    if mode == "RGBA":
        assert np.array_equal(pictures[0][4:], UPRIGHT[4:])
        expected = (alpha * np.array(colours[0]) + (255 - alpha) * 255) / 255
        assert np.abs(pictures[0][:4] - expected).max() <= 1
    if alpha == 0:
        assert (pictures[0][:4] == 255).all()
        assert np.array_equal(*pictures)


@pytest.mark.parametrize("seen", [(0, 0, 0), (255, 0, 0)])
def test_a_transparent_colour_is_white(seen: tuple[int, int, int]) -> None:
    picture = UPRIGHT.copy()
    picture[:4] = seen
    image = Image.fromarray(picture)
    for content in (
        encoded(image, transparency=seen),
        encoded(image.quantize(64), transparency=image.quantize(64).getpixel((0, 0))),
        encoded(Image.fromarray(np.where(picture[..., :1] == seen[0], seen, (9, 9, 9)).astype(np.uint8)).convert("L"),
                transparency=Image.new("RGB", (1, 1), seen).convert("L").getpixel((0, 0))),
    ):  # fmt: skip
        assert (shown(content)[:4] == 255).all()


def test_a_transparent_grey_of_any_depth() -> None:
    for depth, rows, key in (
        (1, bytes([0b01010101]), 0), (2, bytes([0b00011011] * 2), 1), (4, bytes([0x12, 0x34]), 3),
        (8, bytes([5, 6, 7]), 6), (16, bytes([1, 2, 3, 4, 5, 6]), 0x0304),
    ):  # fmt: skip
        width = 8 * len(rows) // depth
        raw = [
            int.from_bytes(rows) >> 8 * len(rows) - depth * (i + 1) & 2**depth - 1
            for i in range(width)
        ]
        expected = [255 if value == key else round(value * 255 / (2**depth - 1)) for value in raw]
        pixels = shown(png(depth, 0, width, rows, struct.pack(">H", key)))
        assert pixels[0, :, 0].tolist() == expected, depth


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGBX", "CMYK", "YCbCr", "LAB", "HSV"])
def test_opaque_pictures_are_as_pillow_shows_them(mode: str) -> None:
    image = Image.fromarray(UPRIGHT).convert(mode)
    assert np.array_equal(np.asarray(as_shown(image, "x")), np.asarray(image.convert("RGB")))


def test_inverted_cmyk_of_adobe() -> None:
    """Photoshop's JPEGs have inverted inks, and record it; viewers invert them back."""
    flat = Image.new("RGB", (24, 16), (200, 30, 90))
    content = encoded(flat.convert("CMYK"), "JPEG", quality=100)
    assert b"Adobe" in content
    assert np.abs(shown(content).astype(int) - (200, 30, 90)).max() < 6


FRAMES = [Image.fromarray(np.roll(UPRIGHT, i, 0)) for i in range(3)]
UNCLEAR: dict[str, tuple[Callable[[], bytes], str]] = {
    "GIF": (lambda: encoded(FRAMES[0], "GIF", save_all=True, append_images=FRAMES[1:]), "frames"),
    "PNG": (lambda: encoded(FRAMES[0], save_all=True, append_images=FRAMES[1:]), "frames"),
    "WEBP": (lambda: encoded(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:]), "frames"),
    "pages": (lambda: encoded(FRAMES[0], "TIFF", save_all=True, append_images=FRAMES[1:]), "frames"),
    "floats": (lambda: encoded(Image.fromarray(GREY / np.float32(255)), "TIFF"), "mode F"),
    "integers": (lambda: encoded(Image.fromarray(GREY.astype(np.int32)), "TIFF"), "mode I"),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNCLEAR)
def test_files_without_a_single_clear_picture_are_refused(tmp_path: Path, kind: str) -> None:
    make, match = UNCLEAR[kind]
    path = tmp_path / f"x_0.{'png' if kind == 'PNG' else 'gif'}"
    path.write_bytes(make())
    with pytest.raises(UserError, match=match) as caught:
        read_picture(path)
    assert str(caught.value).startswith(f"{path}: ")
    if kind == "PNG":
        with pytest.raises(UserError, match=match):
            list_images(tmp_path)


def test_a_photograph_with_a_preview_is_the_photograph() -> None:
    small = FRAMES[1].resize((12, 8))
    content = encoded(FRAMES[0], "MPO", save_all=True, append_images=[small], quality=100)
    assert Image.open(io.BytesIO(content)).n_frames == 2
    assert shown(content).shape == UPRIGHT.shape


def test_as_shown_does_not_change_its_argument() -> None:
    image = Image.open(io.BytesIO(turned(6)))
    before = image.size, image.mode, dict(image.info)
    as_shown(image, "x")
    assert (image.size, image.mode, dict(image.info)) == before
