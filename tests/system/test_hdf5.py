"""Whether a failure to read an HDF5 file proves damage."""

from __future__ import annotations

import errno
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.system.hdf5 import (
    HDF5_ERRORS,
    image_name_crc32,
    name_the_same,
    open_hdf5,
    outside_cause,
    unreadable,
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    with h5py.File(tmp_path / "some.h5", "w") as file:
        file["values"] = np.arange(1000)
        file.attrs["note"] = "whole"
    return tmp_path / "some.h5"


def error_of(path: Path, mode: str = "r") -> BaseException:
    try:
        with h5py.File(path, mode) as file:
            for name in file:
                file[name][()]
            dict(file.attrs)
    except HDF5_ERRORS as error:
        return error
    raise AssertionError(f"{path} was read")


@contextmanager
def held_open(path: Path, mode: str) -> Iterator[None]:
    code = "import h5py, sys; f = h5py.File(*sys.argv[1:]); print(1, flush=True); sys.stdin.read()"
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(path), mode],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout is not None and holder.stdout.readline() == "1\n"
    yield
    holder.communicate("")


@pytest.mark.parametrize(("held", "mine"), [("r", "r+"), ("r+", "r")])
def test_a_file_that_another_process_has_open(path: Path, held: str, mine: str) -> None:
    with held_open(path, held):
        cause = outside_cause(error_of(path, mine))
    assert cause is not None and "process" in cause


def test_no_descriptor_left(path: Path) -> None:
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (len(list(Path("/proc/self/fd").iterdir())), limit[1])
    )
    try:
        with pytest.raises(OSError, match="Too many"):
            while True:
                taken.append(os.open(os.devnull, os.O_RDONLY))
        error = error_of(path)
    finally:
        for descriptor in taken:
            os.close(descriptor)
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
    assert "ulimit -n" in (outside_cause(error) or "")


def test_a_forbidden_file(path: Path) -> None:
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        error = error_of(path)
    finally:
        os.seteuid(user)
    assert (outside_cause(error) or "").startswith("Permission denied; ")


def test_a_disk_that_does_not_answer(tmp_path: Path) -> None:
    """Reading a process's memory at address 0 fails like a broken disk."""
    (tmp_path / "some.h5").symlink_to("/proc/self/mem")
    error = error_of(tmp_path / "some.h5")
    assert f"errno = {errno.EIO}" in str(error)
    assert "disk" in (outside_cause(error) or "")


def test_a_folder_and_a_loop_of_links(tmp_path: Path) -> None:
    (tmp_path / "loop.h5").symlink_to("loop.h5")
    for path in (tmp_path, tmp_path / "loop.h5"):
        assert outside_cause(error_of(path)) is not None


def test_a_writer_that_was_killed_leaves_a_mark(tmp_path: Path) -> None:
    path = tmp_path / "some.h5"
    code = (
        "import h5py, os, sys; f = h5py.File(sys.argv[1], 'w', libver='latest'); f['x'] = 1; "
        "f.flush(); os._exit(0)"
    )
    subprocess.run([sys.executable, "-c", code, str(path)], check=True)
    assert "h5clear" in (outside_cause(error_of(path)) or "")


def test_no_memory() -> None:
    assert outside_cause(MemoryError("Unable to allocate 3.73 GiB")) is not None


@pytest.mark.parametrize("kind", [KeyError, RuntimeError, OSError])
@pytest.mark.parametrize("number", [errno.EIO, errno.EAGAIN, errno.ENOLCK, errno.ESTALE])
def test_a_number_that_is_only_in_the_message(kind: type[Exception], number: int) -> None:
    """For objects and links h5py raises other errors than ``OSError``, without the attribute."""
    error = kind(f"Unable to open object (file read failed: time = now\n, errno = {number}, ...)")
    assert os.strerror(number) in (outside_cause(error) or "")


@pytest.mark.parametrize("content", [b"", b"version https://git-lfs.github.com/spec/v1\n" * 50])
def test_other_content_is_damage(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "some.h5").write_bytes(content)
    assert outside_cause(error_of(tmp_path / "some.h5")) is None


def test_a_truncated_file_is_damaged(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])
    error = error_of(path)
    assert outside_cause(error) is None
    assert str(unreadable(path, error, "make it again")).endswith("; make it again")


def test_most_flipped_bits_are_recognised_as_damage(path: Path) -> None:
    """HDF5's messages for damage contain words such as "block", but no outside cause."""
    whole, causes = path.read_bytes(), []
    for bit in range(0, 8 * 1500, 37):
        content = bytearray(whole)
        content[bit // 8] ^= 1 << bit % 8
        path.write_bytes(content)
        try:
            causes.append(outside_cause(error_of(path)))
        except AssertionError:
            continue
    assert len(causes) > 20
    assert sum(cause is None for cause in causes) > 0.9 * len(causes)


def test_a_broken_heap_of_texts_is_refused_before_libhdf5_hangs(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file.attrs.update({"format": "a", "backbone": "clevr_cnn"})
    with open_hdf5(path) as file:
        assert file.attrs["backbone"] == "clevr_cnn"
    content = bytearray(path.read_bytes())
    at = content.index(b"GCOL") + 16
    while content[at : at + 2] != b"\0\0":  # up to the free space
        at += 16 + (int.from_bytes(content[at + 8 : at + 16], "little") + 7) // 8 * 8
    for size in (0, 2**63):
        content[at + 8 : at + 16] = size.to_bytes(8, "little")
        path.write_bytes(content)
        with pytest.raises(OSError, match="heap at byte"):
            open_hdf5(path)


ENDINGS = st.sampled_from([".png", ".jpg", ".jpeg", ".PNG", ".JPG", ".JPEG"])


@given(st.lists(st.tuples(st.text(max_size=9), st.text(max_size=9), ENDINGS, ENDINGS), min_size=1))
def test_names_are_the_same_but_for_the_endings_of_pictures(names) -> None:
    ours = image_name_crc32(stem + end for stem, _, end, _ in names)
    theirs = image_name_crc32(stem + end for _, stem, _, end in names)
    assert name_the_same(ours, theirs).tolist() == [a == b for a, b, _, _ in names]
    assert name_the_same(ours, image_name_crc32(a + end for a, _, _, end in names)).all()
