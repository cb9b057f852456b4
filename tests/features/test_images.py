"""Listing, checking and decoding the images of a folder."""

from __future__ import annotations

import errno
import io
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from filmvqa.features.images import list_images, load_image
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout

#: Names of files and folders left by file managers, notebooks, systems and transfers.
LITTER = (
    ".DS_Store", "._CLEVR_val_000000.png", "Thumbs.db", "desktop.ini", "Desktop.ini", "ehthumbs.db",
    ".nfs000000000001", ".directory", "Icon\r", "CLEVR_val_000009.png.part",
    "CLEVR_val_000009.png.crdownload", ".CLEVR_val_000009.png.tmp", ".CLEVR_val_000009.png.Ab12Cd",
    "CLEVR_val_000001.png~",
)  # fmt: skip
LITTER_FOLDERS = (
    ".ipynb_checkpoints", "__MACOSX", "lost+found", ".Trash-1000", "@eaDir", "$RECYCLE.BIN",
    "System Volume Information",
)  # fmt: skip


def encoded(format: str, mode: str = "RGB", size: tuple[int, int] = (24, 16), **options) -> bytes:
    channels = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], channels), np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels.squeeze(), mode).save(stream, format=format, **options)
    return stream.getvalue()


PNG, JPEG = encoded("PNG"), encoded("JPEG")


def folder_of(folder: Path, *names: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(PNG if name.lower().endswith("png") else JPEG)
    return folder


def test_litter_is_skipped(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "images/val", "CLEVR_val_000000.png", "CLEVR_val_000001.png")
    for name in LITTER:
        (folder / name).write_bytes(b"\0\5\x16\7")
    for name in LITTER_FOLDERS:
        (folder / name).mkdir()
        (tmp_path / "images" / name).mkdir()
    assert [path.name for path in list_images(folder).values()] == [
        "CLEVR_val_000000.png",
        "CLEVR_val_000001.png",
    ]
    assert DatasetLayout.under(tmp_path).image_splits() == ["val"]


@pytest.mark.parametrize("name", ["notes.txt", "CLEVR_val_000002 (1).png", "val.png", "a_1.bmp"])
def test_other_files_are_refused(tmp_path: Path, name: str) -> None:
    folder = folder_of(tmp_path, "CLEVR_val_000000.png")
    (folder / name).write_bytes(PNG)
    with pytest.raises(UserError, match="is not an image of this split; move it out"):
        list_images(folder)


@given(
    start=st.integers(0, 10**6),
    count=st.integers(1, 5),
    suffix=st.sampled_from(["png", "PNG", "jpg", "jpeg", "JPG"]),
)
def test_indices_may_start_at_any_number(
    tmp_path_factory, start: int, count: int, suffix: str
) -> None:
    folder = folder_of(
        tmp_path_factory.mktemp("images"),
        *(f"superCLEVR_new_{start + i:06d}.{suffix}" for i in range(count)),
    )
    images = list_images(folder)
    assert list(images) == list(range(start, start + count))
    assert all(path.name == f"superCLEVR_new_{i:06d}.{suffix}" for i, path in images.items())


def test_indices_are_sorted_as_numbers(tmp_path: Path) -> None:
    images = list_images(folder_of(tmp_path, *(f"{i}.png" for i in range(12))))
    assert list(images) == list(range(12))


def test_gaps_are_refused_or_left_out(tmp_path: Path) -> None:
    folder = folder_of(tmp_path, *(f"CLEVR_val_{i:06d}.png" for i in (3, 4, 7, 9)))
    with pytest.raises(
        UserError, match=r"CLEVR_val_000005\.png: missing.*data\.missing_images=leave_out"
    ):
        list_images(folder)
    assert list(list_images(folder, missing_images="leave_out")) == [3, 4, 7, 9]
    assert list(list_images(folder, max_images=2)) == [3, 4]
    assert list(list_images(folder, missing_images="leave_out", max_images=3)) == [3, 4, 7]
    with pytest.raises(UserError, match="no such folder; download"):
        list_images(tmp_path / "none")


def test_two_images_of_one_index_are_both_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"a_1\.png: has the index 1, as a_01\.jpg has"):
        list_images(folder_of(tmp_path, "a_0.png", "a_1.png", "a_01.jpg"))


@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_is_decoded(tmp_path: Path, progressive: bool) -> None:
    content = encoded("JPEG", progressive=progressive)
    (tmp_path / "a_0.jpg").write_bytes(content)
    (tmp_path / "a_1.png").write_bytes(content)  # recognised by its content
    (tmp_path / "a_2.jpg").write_bytes(content + b"appended by a camera")
    pixels = np.asarray(Image.open(io.BytesIO(content)))
    for path in list_images(tmp_path).values():
        assert np.array_equal(load_image(path, (16, 24)).transpose(1, 2, 0), pixels)


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (encoded("JPEG", "L"), "a JPEG of mode L.; convert it"),
        (encoded("JPEG", "CMYK"), "a JPEG of mode CMYK.; convert it"),
        (encoded("JPEG", size=(24, 17)), "has 24×17 pixels, a_0.png 24×16.*resize it"),
        (encoded("GIF", "L"), "not a PNG or JPEG file"),
        (b"", "not a PNG or JPEG file"),
        (b"\xff\xd8\xff\xe0\0\0" * 5, "not a PNG or JPEG file, or broken"),
    ],
)
def test_unsuitable_images_are_refused(tmp_path: Path, content: bytes, match: str) -> None:
    folder = folder_of(tmp_path, "a_0.png")
    (folder / "a_1.jpg").write_bytes(content)
    with pytest.raises(UserError, match=rf"a_1\.jpg: .*{match}"):
        list_images(folder)


@pytest.mark.parametrize("whole", [PNG, JPEG], ids=["png", "jpg"])
@given(share=st.floats(0, 0.9999))
def test_a_truncated_image_is_refused(tmp_path_factory, whole: bytes, share: float) -> None:
    folder = tmp_path_factory.mktemp("cut")
    (folder / "a_0.png").write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(UserError, match=r"a_0\.png: (truncated|broken|not a)"):
        list_images(folder)


@pytest.mark.parametrize("number", [errno.EIO, errno.EACCES, errno.EMFILE])
def test_a_system_error_is_not_reported_as_a_broken_image(
    tmp_path: Path, monkeypatch, number: int
) -> None:
    path = folder_of(tmp_path, "a_0.png") / "a_0.png"

    def fail(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("filmvqa.features.images.resize_picture", fail)
    with pytest.raises(OSError, match=os.strerror(number)) as caught:
        load_image(path, (16, 24))
    assert caught.value.filename == str(path)
