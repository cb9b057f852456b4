"""Missing rows of a dataset are named, with their file, without reading values."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from filmvqa.system.hdf5_storage import check_is_there, read_array
from tests.conftest import examples

SHAPE = (12, 2, 3)
VALUES = np.arange(1, 73, dtype=np.float32).reshape(SHAPE)


def checked(path: Path) -> np.ndarray:
    with h5py.File(path) as file:
        return read_array(file["x"])


def part(path: Path, values: np.ndarray = VALUES, **options) -> str:
    with h5py.File(path, "w") as file:
        file.create_dataset("x", data=values, **options)
    return path.name


def join(path: Path, parts: list[tuple[slice, str, tuple[int, ...]]], shape=SHAPE) -> Path:
    layout = h5py.VirtualLayout(shape, np.float32)
    for rows, name, of in parts:
        layout[rows] = h5py.VirtualSource(name, "x", of)
    with h5py.File(path, "w") as file:
        file.create_virtual_dataset("x", layout)
    return path


@given(
    chunks=st.tuples(st.integers(1, 12), st.integers(1, 2), st.integers(1, 3)),
    rows=st.sets(st.integers(0, 11)),
    is_zipped=st.booleans(),
)
@examples(60)
def test_chunks_that_were_never_written(tmp_path_factory, chunks, rows, is_zipped) -> None:
    """The message names the first missing row; without missing rows there is no error."""
    path = tmp_path_factory.mktemp("x") / "x.h5"
    with h5py.File(path, "w") as file:
        compression = "gzip" if is_zipped else None
        dataset = file.create_dataset("x", SHAPE, "f4", chunks=chunks, compression=compression)
        for row in rows:
            dataset[row] = VALUES[row]
    # One written row of a chunk writes the whole chunk.
    written = {row // chunks[0] for row in rows}
    missing = [row for row in range(12) if row // chunks[0] not in written]
    if not missing:
        assert checked(path).shape == SHAPE
        return
    with pytest.raises(UserError, match=rf"x\.h5: 'x' lacks rows? {missing[0]}\b.*never written"):
        checked(path)


@given(
    st.lists(
        st.sampled_from(["there", "gone", "unmapped", "empty", "short"]), min_size=1, max_size=6
    )
)
@examples(60)
def test_parts_in_other_files(tmp_path_factory, states: list[str]) -> None:
    folder = tmp_path_factory.mktemp("x")
    parts = []
    for i, state in enumerate(states):
        rows, name = slice(2 * i, 2 * i + 2), f"part_{i}.h5"
        if state in ("there", "short"):
            part(folder / name, VALUES[rows] if state == "there" else VALUES[rows][:1])
        elif state == "empty":
            with h5py.File(folder / name, "w") as file:
                file.create_dataset("x", (2, 2, 3), "f4", chunks=(1, 2, 3))
        if state != "unmapped":
            parts.append((rows, name, (2, 2, 3)))
    path = join(folder / "x.h5", parts, (2 * len(states), 2, 3))
    bad = [i for i, state in enumerate(states) if state != "there"]
    if not bad:
        assert np.array_equal(checked(path), VALUES[: 2 * len(states)])
        return
    with pytest.raises(UserError, match=rf"x\.h5: 'x' lacks rows {2 * bad[0]} to \d+") as caught:
        checked(path)
    named = [i for i in bad if states[i] != "unmapped"]
    assert not named or f"part_{named[0]}.h5" in str(caught.value)


PLACES = ("", "deep/", "links/")


@pytest.mark.parametrize("name", ["near.h5", "/nowhere/near.h5", "deep/near.h5"])
@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("opened", ["deep/v.h5", "links/v.h5"])
def test_parts_are_searched_for_where_hdf5_opens_them(
    tmp_path: Path, monkeypatch, name: str, place: str, opened: str
) -> None:
    """Beside the file, beside a link's target, and in the current folder."""
    monkeypatch.chdir(tmp_path)
    for folder in PLACES[1:]:
        Path(folder).mkdir()
    join(Path("deep/v.h5"), [(slice(None), name, SHAPE)])
    Path("links/v.h5").symlink_to("../deep/v.h5")
    part(Path(f"{place}near.h5"))
    with h5py.File(opened) as file:
        if file["x"][:].any():
            check_is_there(file["x"])
        else:
            with pytest.raises(UserError, match="which is missing"):
                check_is_there(file["x"])


def test_a_part_that_is_forbidden_or_broken_is_named(tmp_path: Path) -> None:
    (tmp_path / "part.h5").write_text("no HDF5 at all")
    path = join(tmp_path / "x.h5", [(slice(None), "part.h5", SHAPE)])
    with pytest.raises(UserError, match=r"part\.h5: is damaged"):
        checked(path)


def raw(folder: Path) -> h5py.File:
    with h5py.File(folder / "x.h5", "w") as file:
        external = [(str(folder / "a.raw"), 0, 100), (str(folder / "b.raw"), 8, h5py.h5f.UNLIMITED)]
        file.create_dataset("x", data=VALUES, external=external)
    return folder / "x.h5"


CHANGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "gone": (lambda f: (f / "b.raw").unlink(), r"rows 4 to 11: .*b\.raw, which is missing"),
    "short": (
        lambda f: (f / "b.raw").write_bytes(bytes(90)),
        r"rows 4 to 11: .*b\.raw, which is too short",
    ),
    "first": (lambda f: (f / "a.raw").unlink(), r"rows 0 to 4: .*a\.raw, which is missing"),
}


def test_values_in_other_files(tmp_path: Path) -> None:
    for name, (change, message) in CHANGES.items():
        folder = tmp_path / name
        folder.mkdir()
        assert np.array_equal(checked(raw(folder)), VALUES)
        change(folder)
        with pytest.raises(UserError, match=message):
            checked(folder / "x.h5")


def test_a_dataset_that_has_no_room_yet(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("x", SHAPE, "f4")
    with pytest.raises(UserError, match="lacks rows 0 to 11: they were never written"):
        checked(tmp_path / "x.h5")
    for values in (np.zeros((0, 3)), np.zeros((3, 0)), np.arange(5), np.zeros((2, 2))):
        part(tmp_path / "y.h5", values)
        assert checked(tmp_path / "y.h5").shape == values.shape


def test_a_question_file_with_missing_rows(tiny_set: Path, tmp_path: Path) -> None:
    vocabulary = Vocabulary.load(tiny_set / "vocab.json")
    source = (tiny_set / "val_questions.h5").read_bytes()
    for name in ("answers", "image_idxs", "questions"):
        path = tmp_path / f"{name}.h5"
        path.write_bytes(source)
        with h5py.File(path, "r+") as file:
            shape, kind = file[name].shape, file[name].dtype
            del file[name]
            file.create_dataset(name, shape, kind, chunks=True)
        with pytest.raises(
            UserError, match=rf"{name}\.h5: '{name}' lacks rows 0 to .*never written"
        ):
            QuestionDataset.load(path, vocabulary)


def test_many_chunks_are_checked_quickly(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "x.h5", "w") as file:
        dataset = file.create_dataset("x", (70_000, 4), "f4", chunks=(1, 4))
        for row in range(70_000):
            dataset.id.write_direct_chunk((row, 0), bytes(16))
    with h5py.File(tmp_path / "x.h5") as file:
        started = time.process_time()
        check_is_there(file["x"])
        assert time.process_time() - started < 0.5  # 0.03 s
