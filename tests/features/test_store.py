from __future__ import annotations

import gc
import sys
import threading
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from filmvqa.features.feature_file import open_feature_file
from filmvqa.features.store import FeatureStore, choose_placement, open_feature_store
from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError


def test_a_missing_file_is_named(tiny_set: Path, tmp_path: Path) -> None:
    vocabulary = Vocabulary.load(tiny_set / "vocab.json")
    for read in (open_feature_store, lambda path: QuestionDataset.load(path, vocabulary)):
        with pytest.raises(UserError, match=r"x\.h5: no such file"):
            read(tmp_path / "x.h5")


def test_auto_streams_features_that_do_not_fit(tiny_set: Path, monkeypatch) -> None:
    path = tiny_set / "val_features_clevr_cnn.h5"
    assert "device" in open_feature_store(path).description
    monkeypatch.setattr("filmvqa.features.store.RESIDENT_SHARE", 0.0)
    store = open_feature_store(path)
    assert store.prefetch
    assert "stream" in store.description
    with pytest.raises(UserError, match="store='disk'"):
        open_feature_store(path, placement="disk")


def open_descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize(
    ("size", "host", "device", "placement"),
    [
        (59, 100, None, "device"),
        (60, 100, None, "stream"),
        (59, 10, 100, "device"),
        (60, 101, 100, "memory"),
        (60, 100, 100, "stream"),
        (119, 200, 100, "memory"),
    ],
)
def test_resident_features_take_their_share_of_free_memory(
    size: int, host: int, device: int | None, placement: str
) -> None:
    gib = 2**30
    chosen, reason = choose_placement(
        size * gib, host_free=host * gib, device_free=None if device is None else device * gib
    )
    assert chosen == placement
    assert "GiB free" in reason


def test_resident_features_take_exactly_their_size(tiny_set: Path, monkeypatch) -> None:
    """torch rounds pinned memory up to a power of two, so resident features are not pinned."""
    pinned, empty = [], torch.empty

    def watched(*arguments, pin_memory: bool = False, **options):
        tensor = empty(*arguments, **options)
        if pin_memory:
            pinned.append(tensor.nbytes)
        return tensor

    monkeypatch.setattr("filmvqa.features.rows.torch.empty", watched)
    file = open_feature_file(tiny_set / "val_features_clevr_cnn.h5")
    FeatureStore(file, torch.device("cuda"), "memory", "as requested")
    assert not pinned


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="descriptors are listed in /proc")
@pytest.mark.parametrize("layout", ["direct", "through HDF5"])
def test_a_dropped_store_leaves_no_descriptor(tmp_path: Path, layout: str) -> None:
    path = tmp_path / "f.h5"
    with h5py.File(path, "w") as file:
        options = {} if layout == "direct" else {"compression": "gzip"}
        file.create_dataset("features", data=np.ones((4, 2, 3, 3), np.float16), **options)
    gc.collect()  # garbage of earlier tests
    before = open_descriptors()
    for _ in range(10):
        store = open_feature_store(path, placement="stream")
        store.read(torch.tensor([1, 3]))
    del store
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError):
        open_feature_store(path)
    gc.collect()
    assert open_descriptors() == before


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="descriptors are listed in /proc")
@pytest.mark.parametrize("placement", ["device", "memory", "stream"])
def test_a_closed_store_leaves_no_descriptor_and_no_thread(tiny_set: Path, placement: str) -> None:
    path = tiny_set / "val_features_clevr_cnn.h5"
    gc.collect()  # garbage of earlier tests
    descriptors, threads = open_descriptors(), threading.active_count()
    for _ in range(3):
        with open_feature_store(path, placement=placement) as store:
            store.read(torch.tensor([1, 2]))
    assert (open_descriptors(), threading.active_count()) == (descriptors, threads)
    if placement == "stream":
        with pytest.raises(ValueError, match="was closed"):
            store.read(torch.tensor([1]))
    else:
        assert store.read(torch.tensor([1])).shape[0] == 1
