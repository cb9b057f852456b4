from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from filmvqa.evaluation.batches import Loader, open_loader
from filmvqa.features.store import open_feature_store
from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.sampler import EpochSampler
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from tests.conftest import data_in


@pytest.fixture(scope="module")
def vocabulary(tiny_set: Path) -> Vocabulary:
    return Vocabulary.load(tiny_set / "vocab.json")


@pytest.fixture(params=["device", "memory", "stream"])
def loader(request, tiny_set: Path, vocabulary: Vocabulary) -> Loader:
    questions = QuestionDataset.load(tiny_set / "train_questions.h5", vocabulary)
    path = tiny_set / "train_features_clevr_cnn.h5"
    return Loader(questions, open_feature_store(path, "cpu", request.param), batch_size=32)


def test_a_batch_holds_what_the_files_hold(loader: Loader, tiny_set: Path) -> None:
    rows = torch.tensor([500, 3, 4, 3, 17])
    batch = loader.batch(rows)
    with (
        h5py.File(tiny_set / "train_questions.h5") as questions,
        h5py.File(tiny_set / "train_features_clevr_cnn.h5") as features,
    ):
        assert len(batch.features) == len(set(questions["image_idxs"][:][rows.numpy()]))
        for k, row in enumerate(rows.tolist()):
            image = questions["image_idxs"][row]
            found = batch.features[batch.image_of_question[k]].numpy()
            assert np.array_equal(found, features["features"][image])
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
        seen = torch.cat([next(batches).index for _ in range(sampler.batches_per_epoch)])
        assert torch.equal(seen.sort().values, torch.arange(len(loader.questions)))
        epochs.append(seen)
    batches.close()
    assert not torch.equal(epochs[0], epochs[1])
    assert (sampler.epoch, sampler.batch) == (2, 0)


def test_waiting_is_measured(loader: Loader) -> None:
    assert loader.waited == 0
    list(loader.sequential(torch.arange(64)))
    assert loader.waited > 0


def test_sequential_batches_are_of_the_given_rows(loader: Loader) -> None:
    rows = torch.arange(70, 0, -1)
    assert torch.equal(torch.cat([b.index for b in loader.sequential(rows)]), rows)
    assert sum(len(b.index) for b in loader.sequential()) == len(loader.questions)


def test_an_error_while_reading_ahead_reaches_the_reader(tiny_set: Path, vocabulary) -> None:
    questions = QuestionDataset.load(tiny_set / "train_questions.h5", vocabulary)
    store = open_feature_store(tiny_set / "train_features_clevr_cnn.h5", "cpu", "stream")
    loader = Loader(questions, store, batch_size=8)
    questions.images[:] = 10**6
    with pytest.raises((IndexError, ValueError)):
        list(loader.sequential())


def test_a_test_split_has_no_answers(tiny_set: Path, vocabulary: Vocabulary) -> None:
    questions = QuestionDataset.load(tiny_set / "test_questions.h5", vocabulary)
    store = open_feature_store(tiny_set / "test_features_clevr_cnn.h5")
    assert (questions.answers, questions.types, questions.families) == (None, None, None)
    assert Loader(questions, store, 4).batch(torch.arange(3)).targets is None


def test_features_of_the_first_images_alone(
    tiny_set: Path, vocabulary: Vocabulary, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """film's ``--max_images``: a file without attributes has features of the first 5 images."""
    shutil.copy(tiny_set / "val_questions.h5", tmp_path)
    with h5py.File(tmp_path / "val_features_clevr_cnn.h5", "w") as file:
        file["features"] = np.ones((5, 2, 3, 3), np.float16)
    arguments = (data_in(tmp_path), "val", vocabulary, 8, torch.device("cpu"))
    with pytest.raises(UserError, match=r"features of 5 of them.* missing_images=leave_out"):
        open_loader(*arguments, missing_images_option="missing_images")
    loader = open_loader(*arguments, missing_images="leave_out")
    images = torch.cat([loader.questions.images[b.index] for b in loader.sequential()])
    assert set(images.tolist()) == set(range(5))
    with h5py.File(tiny_set / "val_questions.h5") as file:
        about_them = int((file["image_idxs"][:] < 5).sum())
        left_out = len(file["image_idxs"]) - about_them
    assert f"{about_them} questions are kept, {left_out} left out" in capsys.readouterr().out
    family = int(loader.questions.families[0])
    loader = open_loader(*arguments, missing_images="leave_out", families=[family])
    assert set(loader.questions.families.tolist()) == {family}
