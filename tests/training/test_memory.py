"""Memory: training leaks nothing, and streaming holds a few batches however large the file.

Each measurement has a process of its own, or what other tests left would be in it.
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
from filmvqa.evaluation.batches import open_loader
from filmvqa.questions.sampler import EpochSampler
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.training.trainer import Trainer
from tests.conftest import KILLS, TINY, data_in
from tests.training.tiny_runs import train

pytestmark = [
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="memory is read in /proc"),
]
MIB = 2**20
#: ``make test`` trains this long, ``make soak`` 50 / 3 times as long.
STEPS = 300 * KILLS


def alone(work: Callable[..., Any], *arguments: Any) -> Any:
    """What a function returns in a process of its own, with the environment of a program: torch's
    cache of kernels would grow all the time."""
    set_environment()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *arguments).result()


def memory(field: str = "VmRSS") -> int:
    """Bytes of memory that this process has; with ``VmHWM``, that it had at most."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def memory_while_training(folder: Path, data: Path, name: str, store: str) -> list[int]:
    """Memory after each tenth of a long run, which saves and evaluates all the time."""
    torch.set_num_threads(1)
    found: list[int] = []
    step = Trainer.step

    def note(self: Trainer, batch: Any) -> None:
        step(self, batch)
        if self.state.step % (STEPS // 10) == 0:
            found.append(memory())

    Trainer.step = note  # type: ignore[method-assign]
    train(
        folder, data, name, max_steps=STEPS, max_epochs=STEPS, eval_every=20, checkpoint_steps=7,
        run={"store": store},
    )  # fmt: skip
    return found


@pytest.mark.parametrize(("name", "store"), [("lstm", "device"), ("film", "stream")])
def test_many_epochs_take_no_more_memory_than_a_few(
    name: str, store: str, tmp_path: Path, tiny_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # oneDNN's cache of kernels ends at 1,024, after thousands of steps: here it is full early.
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "256")
    found = alone(memory_while_training, tmp_path, tiny_set, name, store)
    assert len(found) == 10
    grown = np.diff(found[4:]) / MIB
    # A leak shows in each tenth of the second half. Its median leaves out what the allocator takes
    # late but once, up to 3 MiB when threads take turns in another order.
    assert len(grown) * np.median(grown) < 4, grown
    assert sum(grown) < 16, grown


#: 1 MiB of features an image, of so many images.
LARGE, IMAGES = (512, 32, 32), 600
MAP = 2 * math.prod(LARGE)
BATCH = 8
#: What streaming may take, in batches, however large the file. Up to eight of them live at a time:
#: READ_AHEAD waiting, two at the trainer while it takes the next for the last, one being read and
#: one where it is put into channels-last order.
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
    """By how much memory grew at most while so many batches were streamed."""
    keep_freed_memory()
    vocabulary = Vocabulary.load(folder / "vocab.json")
    device = torch.device("cpu")
    loader = open_loader(data_in(folder), "train", vocabulary, BATCH, device, "stream")
    rows = torch.arange(len(loader.questions))
    before = memory()
    batches = loader.train_batches(EpochSampler(rows, BATCH, seed=0))
    for k, batch in zip(range(count), batches, strict=False):
        if k % 10 == 0:
            time.sleep(0.05)  # let the reader run ahead as far as it may
        found = batch.features[:, 0, 0, 0][batch.image_of_question]  # each of its own image
        assert torch.equal(found.long() - 1, loader.questions.images[batch.index])
    return memory("VmHWM") - before


def test_streaming_holds_a_few_batches(large_maps: Path) -> None:
    assert BOUND * BATCH < IMAGES / 3
    assert alone(memory_of_batches, large_maps, 300) <= BOUND * BATCH * MAP


def peak_while_training(folder: Path, data: Path, store: str) -> int:
    torch.set_num_threads(1)
    train(folder, data, max_steps=80, eval_every=40, batch_size=BATCH, train_sample=IMAGES,
          model={"stem": {"strides": [8]}}, run={"store": store})  # fmt: skip
    return memory("VmHWM")


def test_training_from_a_stream_needs_no_room_for_the_features(
    tmp_path: Path, large_maps: Path
) -> None:
    streamed, resident = (
        alone(peak_while_training, tmp_path / store, large_maps, store)
        for store in ("stream", "memory")
    )
    # Training's batches wait while those of an evaluation are read.
    assert streamed <= resident - (IMAGES - 2 * BOUND * BATCH) * MAP, (streamed, resident)
