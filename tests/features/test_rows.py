from __future__ import annotations

import errno
import os
from pathlib import Path
from unittest.mock import Mock

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.features.rows import DatasetRows, all_finite
from filmvqa.features.store import open_feature_store
from filmvqa.system.errors import UserError

SHAPE = (40, 3, 4, 5)


def write(path: Path, layout: dict, dtype: str = "float16") -> np.ndarray:
    values = np.random.default_rng(0).integers(0, 200, SHAPE).astype(dtype)
    with h5py.File(path, "w", **({"libver": "latest"} if "chunks" in layout else {})) as file:
        file["before"] = np.zeros(17)
        file.create_dataset("features", data=values, **layout)
    return values


LAYOUTS = {
    "ours": {"chunks": (1, *SHAPE[1:])},
    "film's": {},
    "other chunks": {"chunks": (2, 3, 2, 5)},
    "compressed": {"chunks": (1, *SHAPE[1:]), "compression": "gzip"},
    "checksums": {"chunks": (1, *SHAPE[1:]), "fletcher32": True},
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", ["float16", "float32", "uint8"])
def test_rows_of_every_layout(tmp_path: Path, layout: str, dtype: str) -> None:
    values = write(tmp_path / "f.h5", LAYOUTS[layout], dtype)
    rows = DatasetRows(h5py.File(tmp_path / "f.h5")["features"])
    assert rows.direct == (layout in ("ours", "film's"))
    assert rows.num_bytes == values.nbytes
    for wanted in ([0], [39], [3, 4, 5, 6, 20, 21, 39], list(range(40))):
        out = rows.empty(len(wanted))
        rows.read(np.array(wanted), out)
        assert np.array_equal(out.numpy(), values[wanted])


@given(wanted=st.sets(st.integers(0, 39), min_size=1))
def test_any_sorted_rows(tmp_path_factory: pytest.TempPathFactory, wanted: set[int]) -> None:
    path = tmp_path_factory.getbasetemp() / "any.h5"
    values = write(path, LAYOUTS["ours"])
    store = open_feature_store(path, placement="stream")
    chosen = torch.tensor(sorted(wanted))
    assert np.array_equal(store.read(chosen).numpy(), values[chosen.numpy()])
    assert store.bytes_read == values[chosen.numpy()].nbytes
    assert store.seconds > 0


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "f.h5", {})
    rows = DatasetRows(h5py.File(tmp_path / "f.h5")["features"])
    os.truncate(tmp_path / "f.h5", (tmp_path / "f.h5").stat().st_size - 10)
    with pytest.raises(UserError, match=r"f\.h5: ends at byte"):
        rows.read(np.array([39]), rows.empty(1))


def test_a_system_error_names_the_file(tmp_path: Path, monkeypatch) -> None:
    write(tmp_path / "f.h5", {})

    error = OSError(errno.EIO, os.strerror(errno.EIO))
    monkeypatch.setattr(os, "preadv", Mock(side_effect=error))
    with pytest.raises(UserError, match=r"f\.h5: cannot be accessed now: Input/output error"):
        open_feature_store(tmp_path / "f.h5")


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_all_finite_for_every_float16_value(dtype: type) -> None:
    values = np.arange(2**16, dtype=np.uint16).view(np.float16).astype(dtype)
    assert [all_finite(v) for v in values.reshape(-1, 1)] == np.isfinite(values).tolist()
    assert all_finite(values[:0])
