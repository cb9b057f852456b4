"""Memory: training does not leak, and streaming holds a few batches of a file of any size.

Each measurement runs in a new process, which does not contain the memory of other tests.
"""

from __future__ import annotations

import math
import multiprocessing
import shutil
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from filmvqa.cli.process import keep_freed_memory, set_environment
from filmvqa.evaluation.batches import Batch
from filmvqa.questions.sampler import EpochSampler
from filmvqa.training.trainer import Trainer
from tests.conftest import KILLS, TINY
from tests.training.tiny_runs import after_steps, loader_of, train

pytestmark = [
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read in /proc"),
]
MIB = 2**20
#: The number of steps in ``make test``; ``make soak`` has 50 / 3 times as many.
STEPS = 300 * KILLS


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """The result of a function in a new process with the environment of a program.

    In another environment torch's cache of kernels would keep growing.
    """
    set_environment()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def memory(field: str = "VmRSS") -> int:
    """Memory of this process in bytes; ``VmHWM`` is its maximum."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def memory_while_training(folder: Path, data: Path, name: str, store: str) -> list[int]:
    """Memory after each tenth of a long run that saves and evaluates often."""
    torch.set_num_threads(1)
    measured: list[int] = []

    def measure(trainer: Trainer, batch: Batch) -> None:
        if trainer.state.step % (STEPS // 10) == 0:
            measured.append(memory())

    with pytest.MonkeyPatch.context() as patch:
        after_steps(patch, measure)
        train(
            folder, data, name, max_steps=STEPS, max_epochs=STEPS, eval_every=20,
            checkpoint_steps=7, run={"store": store},
        )  # fmt: skip
    return measured


@pytest.mark.parametrize(("name", "store"), [("lstm", "device"), ("film", "stream")])
def test_many_epochs_take_no_more_memory_than_a_few(
    name: str, store: str, tmp_path: Path, tiny_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # oneDNN's cache of kernels is full at 1,024, after thousands of steps; here it is full early.
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    measured = alone(memory_while_training, tmp_path, tiny_set, name, store)
    assert len(measured) == 10
    growth = np.diff(measured[4:]) / MIB
    # A leak grows in each tenth. The median ignores single late growths of the allocator, of up to
    # 3 MiB when threads take turns in another order.
    assert len(growth) * np.median(growth) < 4, growth
    assert sum(growth) < 16, growth


#: 1 MiB of features per image, and the number of images.
LARGE, IMAGES = (512, 32, 32), 600
MAP = 2 * math.prod(LARGE)
BATCH = 8
#: The number of batches whose memory streaming may take. Up to eight exist at a time: READ_AHEAD
#: are waiting, the trainer has two while it replaces the last by the next, one is being read, and
#: one is being put into channels-last order.
BOUND = 10


@pytest.fixture(scope="module")
def large_maps(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Questions about images with large maps."""
    folder = tmp_path_factory.mktemp("large")
    for path in tiny_set.glob("*"):
        if "features" not in path.name:
            shutil.copy(path, folder)
    with h5py.File(folder / "train_questions.h5", "r+") as file:
        file["image_idxs"][:] = np.arange(len(file["image_idxs"])) % IMAGES
        del file.attrs["sha256"]
    for split, count in {"train": IMAGES, "val": TINY.images["val"]}.items():
        with h5py.File(folder / f"{split}_features_clevr_cnn.h5", "w") as file:
            data = file.create_dataset("features", (count, *LARGE), "f2", chunks=(1, *LARGE))
            for i in range(count):
                data[i] = np.full(LARGE, i + 1, np.float16)
    return folder


def memory_of_batches(folder: Path, count: int) -> int:
    """The largest growth of memory while ``count`` batches are streamed."""
    keep_freed_memory()
    loader = loader_of(folder, batch_size=BATCH, store="stream")
    rows = torch.arange(len(loader.questions))
    before = memory()
    batches = loader.train_batches(EpochSampler(rows, BATCH, seed=0))
    for k, batch in zip(range(count), batches, strict=False):
        if k % 10 == 0:
            time.sleep(0.05)  # lets the reader read ahead
        values = batch.features[:, 0, 0, 0][batch.image_of_question]  # those of the right images
        assert torch.equal(values.long() - 1, loader.questions.images[batch.index])
    return memory("VmHWM") - before


def test_streaming_holds_a_few_batches(large_maps: Path) -> None:
    assert BOUND * BATCH < IMAGES / 3
    assert alone(memory_of_batches, large_maps, 300) <= BOUND * BATCH * MAP


def peak_while_training(folder: Path, data: Path, store: str) -> int:
    torch.set_num_threads(1)
    train(folder, data, max_steps=80, eval_every=40, batch_size=BATCH, train_sample=IMAGES,
          model={"stem": {"strides": [8]}}, run={"store": store})  # fmt: skip
    return memory("VmHWM")


def test_training_from_a_stream_does_not_hold_the_features(
    tmp_path: Path, large_maps: Path
) -> None:
    streamed, resident = (
        alone(peak_while_training, tmp_path / store, large_maps, store)
        for store in ("stream", "memory")
    )
    # Training's batches wait in memory while an evaluation reads its batches.
    assert streamed <= resident - (IMAGES - 2 * BOUND * BATCH) * MAP, (streamed, resident)
