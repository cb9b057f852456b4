"""Feature files of other projects, complete or not."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from filmvqa.features.feature_file import FEATURE_SPEC, open_feature_file
from filmvqa.features.store import open_feature_store
from filmvqa.system.errors import UserError
from tests.features.test_feature_file import MAPS, SHAPE, refused_and_kept, row_of, write

OTHERS: dict[str, Callable[[h5py.File, np.ndarray], Any]] = {
    "film's": lambda f, v: f.__setitem__("features", v),
    "data": lambda f, v: f.__setitem__("data", v),
    "another name": lambda f, v: (f.__setitem__("maps", v), f.__setitem__("ids", np.arange(9))),
    "spare rows": lambda f, v: f.create_dataset("data", (50, *v.shape[1:]), "f4").__setitem__(
        np.s_[: len(v)], v
    ),
    "float64": lambda f, v: f.__setitem__("features", v.astype("f8")),
    "big-endian": lambda f, v: f.__setitem__("features", v.astype(">f4")),
    "big-endian float16": lambda f, v: f.__setitem__("features", v.astype(">f2")),
    "channels last": lambda f, v: f.__setitem__("features", v.transpose(0, 2, 3, 1)),
    "all of these": lambda f, v: f.create_dataset(
        "data", data=v.transpose(0, 2, 3, 1).astype(">f8"), chunks=(2, 4, 4, 3), compression="gzip"
    ),
    "its own format": lambda f, v: (f.__setitem__("features", v), f.attrs.update(format="NCHW")),
}


@pytest.mark.parametrize("placement", ["memory", "stream"])
@pytest.mark.parametrize("kind", OTHERS)
def test_unambiguous_files_of_other_projects_are_read(
    tmp_path: Path, kind: str, placement: str
) -> None:
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        OTHERS[kind](file, MAPS.astype(np.float32))
    with open_feature_store(path, placement=placement) as store:
        assert store.shape == SHAPE[1:]
        maps = store.read(torch.tensor([0, 3, 8]))
        assert maps.is_contiguous()
        assert np.array_equal(maps.numpy(), MAPS[[0, 3, 8]].astype(maps.numpy().dtype))


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1024, 14, 14), (1024, 14, 14)),
        ((14, 14, 1024), (1024, 14, 14)),
        ((7, 7, 2048), (2048, 7, 7)),
        ((2, 7, 7), (2, 7, 7)),
        ((1, 1, 64), (64, 1, 1)),
        ((64, 1, 1), (64, 1, 1)),
        ((1024, 10, 15), (1024, 10, 15)),
        ((10, 15, 1024), (1024, 10, 15)),
        ((3, 20, 30), (3, 20, 30)),
        ((20, 30, 3), (3, 20, 30)),
        ((64, 80, 120), None),
        ((5, 6, 7), None),
        ((4, 4, 4), None),
    ],
)
def test_the_order_of_axes(tmp_path: Path, shape: tuple, expected: tuple | None) -> None:
    path = tmp_path / "f.h5"
    values = np.random.default_rng(0).random((2, *shape), np.float32)
    with h5py.File(path, "w") as file:
        file["features"] = values
    if expected is None:
        refused_and_kept(
            lambda: open_feature_store(path), path, r"\(N, H, W, C\).*attrs\['order'\]"
        )
    else:
        with open_feature_store(path) as store:
            assert store.shape == expected
    for order, maps in (("NCHW", values), ("NHWC", values.transpose(0, 3, 1, 2))):
        with h5py.File(path, "r+") as file:
            file["features"].attrs["order"] = order
        with open_feature_store(path) as store:
            assert np.array_equal(store.read(torch.arange(2)).numpy(), maps)


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda f: f.__setitem__("a", MAPS) or f.__setitem__("b", MAPS), "and 2 of four axes"),
        (lambda f: f.__setitem__("features", MAPS[:, 0]), "has the shape"),
        (lambda f: f.__setitem__("features", MAPS.astype(np.int64)), "the type int64"),
        (lambda f: f.__setitem__("features/deep", MAPS), "and none of four axes"),
        (lambda f: f.__setitem__("other", np.arange(3)), "and none of four axes"),
        (lambda f: None, "its entries: none"),
        (lambda f: (f.__setitem__("features", MAPS), f.__setitem__("image_idxs", np.zeros(9, int))),
         "must be sorted distinct"),
        (lambda f: (f.__setitem__("features", MAPS), f.attrs.update(num_done=3)),
         "only 3 of 9 images done"),
        (lambda f: (f.__setitem__("features", MAPS), f.attrs.update(format="filmvqa-features-9",
                    image_names_sha256="", num_done=9, **dict.fromkeys(FEATURE_SPEC, "x"))),
         "has the format 'filmvqa-features-9'"),
        (lambda f: f.__setitem__("features", h5py.ExternalLink("missing.h5", "/maps")),
         "missing.h5, which is missing"),
    ],
)  # fmt: skip
def test_ambiguous_and_broken_files_of_other_projects_are_refused(
    tmp_path: Path, make: Callable[[h5py.File], Any], match: str
) -> None:
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        make(file)
    refused_and_kept(lambda: open_feature_store(path), path, rf"f\.h5: .*{match}")


def test_float64_values_too_large_for_float32_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        file["features"] = np.full((2, 3, 4, 4), 1e300)
    with pytest.raises(UserError, match="image 0 are not finite"):
        open_feature_store(path)


def other_file(path: Path, **options: Any) -> Path:
    """Write a file of another project that has only the first 4 of 9 rows."""
    with h5py.File(path, "w") as file:
        file.create_dataset("features", SHAPE, "f4", **options)[:4] = MAPS[:4]
    return path


@pytest.mark.parametrize(
    "options",
    [{"chunks": (1, *SHAPE[1:])}, {"chunks": (2, 3, 2, 4), "compression": "gzip"}, {},
     {"chunks": (9, *SHAPE[1:])}, {"fillvalue": 7.0}, {"chunks": (5, *SHAPE[1:]), "shuffle": True}],
    ids=str,
)  # fmt: skip
def test_unwritten_rows_are_refused(tmp_path: Path, options: dict[str, Any]) -> None:
    path = other_file(tmp_path / "f.h5", **options)
    first = 5 if options.get("shuffle") else 4
    for placement in ("memory", "stream"):
        with open_feature_store(path, placement=placement) as store:
            store.check_written(torch.arange(4))
            refused_and_kept(
                lambda store=store: store.check_written(torch.arange(9)),
                path, rf"f\.h5: rows? ({first} to 8|8|4 and .*) of its.*never written",
            )  # fmt: skip


def test_an_unwritten_row_of_contiguous_rows_is_refused(tmp_path: Path) -> None:
    """Not all rows of such a file are checked before work starts."""
    path = tmp_path / "f.h5"
    maps = np.ones((300, 3, 2, 2), np.float32)
    maps[7] = 0
    with h5py.File(path, "w") as file:
        file["features"] = maps
    with open_feature_store(path, placement="stream") as store:
        store.check_written(torch.arange(300))
        assert store.read(torch.tensor([6])).sum() == 12
        with pytest.raises(UserError, match=r"f\.h5: row 7 of its features.*never written"):
            store.read(torch.tensor([7]))
    with (
        open_feature_store(path, placement="memory") as store,
        pytest.raises(UserError, match=r"f\.h5: row 7 of its features.*never written"),
    ):
        store.check_written(torch.arange(300))


def test_black_pixels_are_not_unwritten_rows(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as file:
        file["features"] = np.zeros((3, 3, 4, 4), np.uint8)
    assert open_feature_store(tmp_path / "f.h5").read(torch.tensor([1])).sum() == 0


def test_a_missing_part_of_a_virtual_dataset_is_refused(tmp_path: Path) -> None:
    """The file has all attributes of our format."""
    write(tmp_path / "whole.h5")
    layout = h5py.VirtualLayout(SHAPE, np.float16)
    for rows in (slice(0, 5), slice(5, 9)):
        part = tmp_path / f"part_{rows.start}.h5"
        with h5py.File(part, "w") as file:
            file["features"] = MAPS[rows]
        layout[rows] = h5py.VirtualSource(part.name, "features", MAPS[rows].shape)
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file, h5py.File(tmp_path / "whole.h5") as whole:
        file.create_virtual_dataset("features", layout)
        file.attrs.update(whole.attrs)
        for name in whole.keys() - {"features"}:
            file[name] = whole[name][:]
    assert np.array_equal(row_of(path, 7), MAPS[7])
    (tmp_path / "part_5.h5").rename(tmp_path / "elsewhere.h5")
    refused_and_kept(
        lambda: open_feature_file(path), path, r"rows 5 to 8: .*part_5\.h5, which is missing"
    )
