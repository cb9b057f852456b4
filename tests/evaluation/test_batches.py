"""Batches of questions with features and targets."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from filmvqa.evaluation.batches import Loader
from filmvqa.questions.sampler import EpochSampler
from filmvqa.system.errors import UserError
from tests.training.tiny_runs import loader_of


@pytest.fixture(params=["device", "memory", "stream"])
def loader(request, tiny_set: Path) -> Loader:
    return loader_of(tiny_set, batch_size=32, store=request.param)


def test_a_batch_has_the_content_of_the_files(loader: Loader, tiny_set: Path) -> None:
    rows = torch.tensor([500, 3, 4, 3, 17])
    batch = loader.batch(rows)
    with (
        h5py.File(tiny_set / "train_questions.h5") as questions,
        h5py.File(tiny_set / "train_features_clevr_cnn.h5") as features,
    ):
        assert len(batch.features) == len(set(questions["image_idxs"][:][rows.numpy()]))
        for k, row in enumerate(rows.tolist()):
            image = questions["image_idxs"][row]
            maps = batch.features[batch.image_of_question[k]].numpy()
            assert np.array_equal(maps, features["features"][image])
            words = questions["questions"][row]
            assert np.array_equal(batch.questions[k].numpy()[: (words > 0).sum()], words[words > 0])
            assert int(batch.targets[k]) == questions["answers"][row]
    assert batch.questions.shape[1] == int((batch.questions != 0).sum(1).max())
    assert torch.equal(batch.index, rows)


def test_every_question_comes_once_an_epoch(loader: Loader) -> None:
    sampler = EpochSampler(torch.arange(len(loader.questions)), loader.batch_size, seed=0)
    batches = loader.train_batches(sampler)
    epochs = []
    for _ in range(2):
        epochs.append(torch.cat([next(batches).index for _ in range(sampler.batches_per_epoch)]))
        assert torch.equal(epochs[-1].sort().values, torch.arange(len(loader.questions)))
    batches.close()
    assert not torch.equal(epochs[0], epochs[1])
    assert (sampler.epoch, sampler.batch) == (2, 0)


def test_sequential_batches_have_the_given_rows(loader: Loader) -> None:
    rows = torch.arange(70, 0, -1)
    assert loader.waited == 0
    assert torch.equal(torch.cat([b.index for b in loader.sequential(rows)]), rows)
    assert loader.waited > 0
    assert sum(len(b.index) for b in loader.sequential()) == len(loader.questions)


def test_an_error_while_reading_ahead_reaches_the_reader(tiny_set: Path) -> None:
    loader = loader_of(tiny_set, store="stream")
    loader.questions.images[:] = 10**6
    with pytest.raises((IndexError, ValueError)):
        list(loader.sequential())


def test_a_test_split_has_no_answers(tiny_set: Path) -> None:
    loader = loader_of(tiny_set, "test")
    questions = loader.questions
    assert (questions.answers, questions.types, questions.families) == (None, None, None)
    assert loader.batch(torch.arange(3)).targets is None


def test_features_of_only_the_first_images(
    tiny_set: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A file of film's ``--max_images`` has no attributes, and features of the first 5 images."""
    for name in ("val_questions.h5", "vocab.json"):
        shutil.copy(tiny_set / name, tmp_path)
    with h5py.File(tmp_path / "val_features_clevr_cnn.h5", "w") as file:
        file["features"] = np.ones((5, 2, 3, 3), np.float16)
    with pytest.raises(UserError, match=r"features of 5 of them.* missing_images=leave_out"):
        loader_of(tmp_path, "val", missing_images_option="missing_images")
    loader = loader_of(tmp_path, "val", missing_images="leave_out")
    images = torch.cat([loader.questions.images[b.index] for b in loader.sequential()])
    assert set(images.tolist()) == set(range(5))
    with h5py.File(tiny_set / "val_questions.h5") as file:
        about_them = int((file["image_idxs"][:] < 5).sum())
        left_out = len(file["image_idxs"]) - about_them
    assert f"{about_them} questions are kept, {left_out} left out" in capsys.readouterr().out
    family = int(loader.questions.families[0])
    loader = loader_of(tmp_path, "val", missing_images="leave_out", families=[family])
    assert set(loader.questions.families.tolist()) == {family}
