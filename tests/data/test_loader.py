from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.clevr.programs import ANSWER_FUNCTIONS
from filmvqa.data.loader import EpochSampler, Loader, QuestionSet
from filmvqa.data.store import open_feature_store
from filmvqa.data.vocabulary import Vocabulary
from filmvqa.errors import UserError


@pytest.fixture(scope="module")
def vocabulary(tiny_set: Path) -> Vocabulary:
    return Vocabulary.load(tiny_set / "vocab.json")


@pytest.fixture(params=["device", "memory", "stream"])
def loader(request, tiny_set: Path, vocabulary: Vocabulary) -> Loader:
    questions = QuestionSet.load(tiny_set / "train_questions.h5", vocabulary)
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
            assert int(batch.answers[k]) == questions["answers"][row]
    assert batch.questions.shape[1] == int((batch.questions != 0).sum(1).max())
    assert torch.equal(batch.index, rows)


def test_every_question_comes_once_an_epoch(loader: Loader) -> None:
    sampler = EpochSampler(torch.arange(len(loader.questions)), loader.batch_size, seed=0)
    batches = loader.forever(sampler)
    epochs = []
    for _ in range(2):
        seen = torch.cat([next(batches).index for _ in range(sampler.batches_per_epoch)])
        assert torch.equal(seen.sort().values, torch.arange(len(loader.questions)))
        epochs.append(seen)
    batches.close()
    assert not torch.equal(epochs[0], epochs[1])
    assert (sampler.epoch, sampler.batch) == (2, 0)


@given(
    st.lists(st.integers(0, 6), min_size=1, max_size=60),
    st.integers(1, 5),
    st.integers(1, 20),
    st.integers(0, 3),
)
def test_questions_of_an_image_come_together_and_once(
    images: list[int], per_image: int, size: int, epoch: int
) -> None:
    of = torch.tensor(images)
    rows = torch.arange(len(images)) + 100
    sampler = EpochSampler(rows, size, 0, of, per_image)
    batches = [sampler.rows(epoch, i) for i in range(sampler.batches_per_epoch)]
    assert all(len(batch) == size for batch in batches[:-1])
    drawn = torch.cat(batches)
    assert torch.equal(drawn.sort().values, rows)
    # Each image is met once for every `per_image` questions, and once for the rest; two such
    # groups may follow one another, which leaves fewer.
    runs = int((of[drawn - 100].diff() != 0).sum()) + 1
    assert runs <= sum(-(-images.count(i) // per_image) for i in set(images))


def test_draws_of_images_are_uniform() -> None:
    of = torch.arange(6).repeat_interleave(4)
    firsts = torch.zeros(24)
    for seed in range(1200):
        firsts[EpochSampler(torch.arange(24), 4, seed, of, 2).rows(0, 0)] += 1
    assert (firsts - 200).abs().max() < 60  # 4.6 standard deviations


def test_waiting_is_measured(loader: Loader) -> None:
    assert loader.waited == 0
    list(loader.in_order(torch.arange(64)))
    assert loader.waited > 0


def test_in_order_reads_the_given_rows(loader: Loader) -> None:
    rows = torch.arange(70, 0, -1)
    assert torch.equal(torch.cat([b.index for b in loader.in_order(rows)]), rows)
    assert sum(len(b.index) for b in loader.in_order()) == len(loader.questions)


@given(st.integers(1, 50), st.integers(1, 60), st.integers(0, 5), st.integers(0, 30))
def test_a_sampler_goes_on_from_its_state(count: int, size: int, seed: int, steps: int) -> None:
    one = EpochSampler(torch.arange(count), size, seed)
    rows = []
    for _ in range(steps + 5):
        rows.append(one.rows(one.epoch, one.batch))
        one.advance()
    other = EpochSampler(torch.arange(count), size, seed)
    for _ in range(steps):
        other.advance()
    resumed = EpochSampler(torch.arange(count), size, seed)
    resumed.load_state_dict(other.state_dict())
    for k in range(steps, steps + 5):
        assert torch.equal(resumed.rows(resumed.epoch, resumed.batch), rows[k])
        resumed.advance()


def test_an_error_while_reading_ahead_reaches_the_reader(tiny_set: Path, vocabulary) -> None:
    questions = QuestionSet.load(tiny_set / "train_questions.h5", vocabulary)
    store = open_feature_store(tiny_set / "train_features_clevr_cnn.h5", "cpu", "stream")
    loader = Loader(questions, store, batch_size=8)
    questions.images[:] = 10**6
    with pytest.raises((IndexError, ValueError)):
        list(loader.in_order())


def test_a_test_split_has_no_answers(tiny_set: Path, vocabulary: Vocabulary) -> None:
    questions = QuestionSet.load(tiny_set / "test_questions.h5", vocabulary)
    store = open_feature_store(tiny_set / "test_features_clevr_cnn.h5")
    assert (questions.answers, questions.types, questions.families) == (None, None, None)
    assert Loader(questions, store, 4).batch(torch.arange(3)).answers is None


def test_films_own_files_load(tiny_set: Path, vocabulary: Vocabulary, tmp_path: Path) -> None:
    """No attributes, float32 features, type ids of any order: types come from the programs."""
    with (
        h5py.File(tiny_set / "val_questions.h5") as source,
        h5py.File(tmp_path / "q.h5", "w") as target,
    ):
        for name in source:
            if name != "types":
                target[name] = source[name][:]
        target["types"] = np.zeros(len(source["types"]), np.int32)
        expected = source["types"][:]
        images = int(source["image_idxs"][:].max()) + 1
    with h5py.File(tmp_path / "f.h5", "w") as target:
        target["features"] = np.zeros((images, 2, 3, 3), np.float32)
    questions = QuestionSet.load(tmp_path / "q.h5", vocabulary)
    store = open_feature_store(tmp_path / "f.h5")
    questions.check_features(store, "f.h5")
    assert questions.types.tolist() == expected.tolist()
    assert Loader(questions, store, 4).batch(torch.arange(2)).features.dtype == torch.float32
    assert len(ANSWER_FUNCTIONS) == 13


def test_other_features_are_refused(tiny_set: Path, vocabulary: Vocabulary, tmp_path: Path) -> None:
    questions = QuestionSet.load(tiny_set / "train_questions.h5", vocabulary)
    few = open_feature_store(tiny_set / "val_features_clevr_cnn.h5")
    with pytest.raises(UserError, match=r"asks about 60 images.*features of 20"):
        questions.check_features(few, "val.h5")
    with h5py.File(tmp_path / "f.h5", "w") as target:
        target["features"] = np.zeros((60, 2, 3, 3), np.float16)
        target.attrs["image_names_sha256"] = "0" * 64
    with pytest.raises(UserError, match="other names"):
        questions.check_features(open_feature_store(tmp_path / "f.h5"), "f.h5")


def test_another_vocabulary_is_refused(tiny_set: Path) -> None:
    other = Vocabulary.build({"a": 1}, [], ["yes"])
    with pytest.raises(UserError, match="another vocabulary"):
        QuestionSet.load(tiny_set / "train_questions.h5", other)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89HDF\r\n\x1a\n" + bytes(64)])
def test_unreadable_files_are_named(tmp_path: Path, vocabulary, content: bytes) -> None:
    path = tmp_path / "x.h5"
    with pytest.raises(UserError, match=r"x\.h5: no such file"):
        open_feature_store(path)
    with pytest.raises(UserError, match=r"x\.h5: no such file"):
        QuestionSet.load(path, vocabulary)
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"x\.h5: not readable"):
        open_feature_store(path)
    with pytest.raises(UserError, match=r"x\.h5: not readable"):
        QuestionSet.load(path, vocabulary)


def test_unfinished_and_misshapen_features_are_refused(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["features"] = np.zeros((4, 2, 3, 3), np.float16)
        file.attrs["num_done"] = 2
    with pytest.raises(UserError, match="only 2 of 4"):
        open_feature_store(tmp_path / "a.h5")
    with h5py.File(tmp_path / "b.h5", "w") as file:
        file["features"] = np.zeros((4, 2, 3), np.float16)
    with pytest.raises(UserError, match="shape"):
        open_feature_store(tmp_path / "b.h5")


def test_auto_streams_what_does_not_fit(tiny_set: Path, monkeypatch) -> None:
    path = tiny_set / "val_features_clevr_cnn.h5"
    assert "device" in open_feature_store(path).where
    monkeypatch.setattr("filmvqa.data.store.RESIDENT_SHARE", 0.0)
    store = open_feature_store(path)
    assert store.ahead
    assert "stream" in store.where
    with pytest.raises(UserError, match="store='disk'"):
        open_feature_store(path, placement="disk")
