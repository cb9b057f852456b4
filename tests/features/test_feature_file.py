"""Feature files: resuming, checking and reading them by image."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any
from zlib import crc32

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from filmvqa.backbones.build import build_backbone
from filmvqa.backbones.extraction import Extraction
from filmvqa.backbones.settings import ExtractionSettings
from filmvqa.features.feature_file import FEATURE_SPEC, FORMAT, open_feature_file
from filmvqa.features.feature_writer import open_writer
from filmvqa.features.store import open_feature_store
from filmvqa.system.errors import UserError
from tests.conftest import examples

#: Advice that would destroy an intact file.
DESTRUCTIVE = re.compile(r"delet|remov|\brm\b|(make|fetch) (it|them)\b|made again|make it again")
SHAPE = (9, 3, 4, 4)
MAPS = np.random.default_rng(0).integers(1, 200, SHAPE).astype(np.float16)
NAMES = {i: f"CLEVR_val_{i:06d}.png" for i in range(SHAPE[0])}
ATTRIBUTES: dict[str, Any] = {
    "format": FORMAT, "split": "val", **dict.fromkeys(FEATURE_SPEC, "x"), "image_names_sha256": "0" * 64,
}  # fmt: skip


def write(path: Path, names: dict[int, str] = NAMES, count: int | None = None) -> bytes:
    """Write a feature file whose first ``count`` rows are done."""
    with open_writer(path, ATTRIBUTES, (len(names), *SHAPE[1:]), "float16", names) as writer:
        writer.write(torch.from_numpy(MAPS[: count or len(names)]))
    return path.read_bytes()


def row_of(path: Path, image: int) -> np.ndarray:
    with open_feature_store(path, placement="stream") as store:
        return store.read(torch.tensor([image])).numpy()[0]


# Unfinished files.


@pytest.fixture
def partial(tmp_path: Path) -> Path:
    write(tmp_path / "f.h5.partial", count=4)
    return tmp_path / "f.h5.partial"


def resume(path: Path, **changed: Any) -> None:
    with open_writer(path, ATTRIBUTES | changed, SHAPE, "float16", NAMES) as writer:
        writer.write(torch.from_numpy(MAPS[writer.num_done :]))


def test_an_unfinished_file_is_resumed(partial: Path) -> None:
    file_id = partial.stat().st_ino
    resume(partial)
    assert partial.stat().st_ino == file_id
    assert np.array_equal(row_of(partial, 2), MAPS[2])
    assert np.array_equal(row_of(partial, 8), MAPS[8])


def refused_and_kept(work: Callable[[], Any], path: Path, match: str) -> None:
    before = path.read_bytes()
    with pytest.raises(UserError, match=match) as caught:
        work()
    assert path.name in str(caught.value)
    assert not DESTRUCTIVE.search(str(caught.value).replace(str(path), "")), caught.value
    assert path.read_bytes() == before


def test_an_unfinished_file_that_another_process_has_open_is_kept(partial: Path) -> None:
    with open(partial, "rb") as stream:  # the lock that HDF5 of another process would take
        fcntl.flock(stream, fcntl.LOCK_SH)
        refused_and_kept(lambda: resume(partial), partial, "process that has it open")
    resume(partial)


SYSTEM_ERRORS = (
    errno.EAGAIN, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO,
    errno.ENOLCK, errno.ESTALE,
)  # fmt: skip


@pytest.mark.parametrize("number", SYSTEM_ERRORS)
@pytest.mark.parametrize("suffix", [".partial", ""])
def test_system_errors_keep_unfinished_and_finished_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, suffix: str
) -> None:
    path, folder = tmp_path / f"f.h5{suffix}", tmp_path / "images"
    folder.mkdir()
    Image.new("RGB", (4, 4)).save(folder / "CLEVR_val_000000.png")
    content = write(path, count=4)

    def fail(name: Any, *_: Any, **__: Any) -> None:
        if not Path(name).exists():
            raise FileNotFoundError(errno.ENOENT, "No such file", name)
        raise OSError(number, f"Unable to open file (errno = {number}, error message = 'x')")

    monkeypatch.setattr(h5py, "File", fail)

    def extract(precision: str = "auto") -> None:
        settings, backbone = ExtractionSettings(precision=precision), build_backbone("pixels")
        Extraction(folder, tmp_path / "f.h5", "val", backbone, (4, 4), settings=settings).run()

    for work in (extract, lambda: extract("float32"), lambda: open_feature_file(path)):
        refused_and_kept(work, path, re.escape(os.strerror(number)))
    assert path.read_bytes() == content


def test_an_unfinished_file_with_other_attributes_is_kept(partial: Path) -> None:
    for key, value, words in (
        ("weights_sha256", "1", "content of the weights"),
        ("image_names_sha256", "1", "set of images"),
        ("precision", "y", r"precision \(x there, y now\)"),
    ):
        refused_and_kept(
            lambda key=key, value=value: resume(partial, **{key: value}),
            partial, f"features of 4 images of another {words}; .*move it away",
        )  # fmt: skip


def test_an_unfinished_file_without_features_is_replaced(tmp_path: Path, capsys) -> None:
    path = tmp_path / "f.h5.partial"
    open_writer(path, ATTRIBUTES, SHAPE, "float16", NAMES).__exit__(None)
    resume(path, weights="y")
    assert np.array_equal(row_of(path, 8), MAPS[8])
    assert not capsys.readouterr().err


def test_a_broken_unfinished_file_is_replaced(partial: Path, capsys) -> None:
    for content in (b"", b"hello", partial.read_bytes()[:1000]):
        partial.write_bytes(content)
        resume(partial)
        assert "is damaged" in capsys.readouterr().err
        assert np.array_equal(row_of(partial, 0), MAPS[0])


# HDF5's index.


def index_key(row: int, size: int = MAPS[0].nbytes, mask: int = 0, last: int = 0) -> bytes:
    """The key of a row in the index: size, filter mask, and the position in the dataset."""
    return struct.pack("<II5Q", size, mask, row, 0, 0, last, 0)


def offset_of(path: Path, row: int) -> int:
    with h5py.File(path) as file:
        return file["features"].id.get_chunk_info_by_coord((row, 0, 0, 0)).byte_offset


@pytest.mark.parametrize(
    "change",
    [
        lambda key, offset: index_key(288230376151711752) + offset,
        lambda key, offset: index_key(9) + offset,
        lambda key, offset: index_key(2) + offset,  # listed twice
        lambda key, offset: index_key(3, last=1) + offset,
        lambda key, offset: index_key(3, size=8) + offset,
        lambda key, offset: index_key(3, mask=1) + offset,
        lambda key, offset: key + struct.pack("<Q", 2**62),
        lambda key, offset: key + struct.pack("<Q", 10**6),
        lambda key, offset: key + struct.pack("<Q", 16),  # HDF5's superblock
        lambda key, offset: key + struct.pack("<Q", struct.unpack("<Q", offset)[0] + 8),
        lambda key, offset: key + struct.pack("<Q", struct.unpack("<Q", offset)[0] + 96),
    ],
)
def test_every_number_of_the_index_is_checked(tmp_path: Path, change) -> None:
    """Nothing is read or written at an impossible offset."""
    path = tmp_path / "f.h5.partial"
    content = write(path)
    offset = struct.pack("<Q", offset_of(path, 3))
    key = index_key(3)
    assert content.count(key + offset) == 1
    path.write_bytes(content.replace(key + offset, change(key, offset)))
    with pytest.raises(UserError, match=r"f\.h5\.partial: (its index )?is damaged"):
        open_feature_file(path)
    resume(path)  # which replaces it
    assert np.array_equal(row_of(path, 3), MAPS[3])


@pytest.mark.parametrize("offset", [8, 10**6, 2**40, 2**63])
def test_the_offset_of_contiguous_rows_is_checked(tmp_path: Path, offset: int) -> None:
    path = tmp_path / "film.h5"
    with h5py.File(path, "w") as file:
        file["features"] = MAPS
        first = file["features"].id.get_offset()
    content = path.read_bytes()
    layout = struct.pack("<QQ", first, MAPS.nbytes)
    assert content.count(layout) == 1
    path.write_bytes(content.replace(layout, struct.pack("<QQ", offset, MAPS.nbytes)))
    with pytest.raises(UserError, match=r"film\.h5: "):
        open_feature_store(path, placement="memory")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("whole")
    return {
        "finished": write(folder / "a.h5"),
        "by index": write(folder / "b.h5", {5 * i: name for i, name in NAMES.items()}),
        "unfinished": write(folder / "c.h5.partial", count=4),
    }


@pytest.mark.parametrize("kind", ["finished", "by index"])
@examples(400)
@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_never_gives_other_features(
    tmp_path: Path, whole: dict[str, bytes], kind: str, place: int, bit: int
) -> None:
    content = bytearray(whole[kind])
    content[place % len(content)] ^= 1 << bit
    path = tmp_path / "f.h5"
    path.write_bytes(content)
    step = 5 if kind == "by index" else 1
    try:
        with open_feature_store(path, placement="stream") as store:
            for row, image in enumerate(store.image_idxs.tolist()):
                assert image == step * row
                assert np.array_equal(store.read(torch.tensor([image])).numpy()[0], MAPS[row])
    except UserError as error:
        assert "f.h5" in str(error)


@examples(400)
@given(place=st.integers(0, 10**6), bit=st.integers(0, 7))
def test_a_flipped_bit_in_an_unfinished_file_never_gives_other_features(
    tmp_path: Path, whole: dict[str, bytes], place: int, bit: int
) -> None:
    """The file is resumed, replaced, or refused unchanged; the result is correct or refused."""
    content = bytearray(whole["unfinished"])
    content[place % len(content)] ^= 1 << bit
    path = tmp_path / "f.h5.partial"
    path.write_bytes(content)
    try:
        resume(path)
    except UserError as error:
        assert "f.h5.partial" in str(error)
        assert path.read_bytes() == content
        return
    try:
        with open_feature_store(path, placement="stream") as store:
            assert np.array_equal(store.read(torch.arange(9)).numpy(), MAPS)
    except UserError as error:
        assert "f.h5.partial" in str(error)


# Images by index.


@pytest.mark.parametrize("placement", ["memory", "stream"])
@given(images=st.sets(st.integers(0, 2**31 - 1), min_size=1, max_size=9))
def test_features_by_image(tmp_path_factory, placement: str, images: set[int]) -> None:
    path = tmp_path_factory.mktemp("by-index") / "f.h5"
    write(path, {i: f"{i}.png" for i in sorted(images)})
    with open_feature_store(path, placement=placement) as store:
        assert store.image_idxs.tolist() == sorted(images)
        assert np.array_equal(
            store.image_name_crc32, [crc32(b"%d.png" % i) for i in sorted(images)]
        )
        assert np.array_equal(store.read(torch.tensor(sorted(images))).numpy(), MAPS[: len(images)])
        absent = next(i for i in range(10**6) if i not in images)
        with pytest.raises(ValueError, match="no features of some"):
            store.read(torch.tensor([absent]))
    with h5py.File(path) as file:
        assert ("image_idxs" in file) == (max(images) >= len(images))


@pytest.mark.parametrize(
    "harm",
    [
        lambda f: f["image_idxs"].__setitem__(1, 6),
        lambda f: f.__delitem__("image_idxs"),
        lambda f: f.attrs.__delitem__("image_idxs_crc32"),
        lambda f: (f.__delitem__("image_idxs"), f.__setitem__("image_idxs", np.arange(3))),
    ],
)
def test_changed_indices_are_refused(tmp_path: Path, harm) -> None:
    path = tmp_path / "f.h5"
    write(path, {5 * i: name for i, name in NAMES.items()})
    with h5py.File(path, "r+") as file:
        harm(file)
    with pytest.raises(UserError, match=r"f\.h5: 'image_idxs'"):
        open_feature_file(path)
