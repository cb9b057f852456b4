from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from filmvqa.clevr.programs import ANSWER_FUNCTIONS
from filmvqa.data.batches import Loader
from filmvqa.data.questions import QuestionDataset
from filmvqa.data.store import open_feature_store
from filmvqa.data.vocabulary import Vocabulary
from filmvqa.errors import UserError


@pytest.fixture(scope="module")
def vocabulary(tiny_set: Path) -> Vocabulary:
    return Vocabulary.load(tiny_set / "vocab.json")


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
    questions = QuestionDataset.load(tmp_path / "q.h5", vocabulary)
    store = open_feature_store(tmp_path / "f.h5")
    questions.with_features(store, "f.h5")
    assert questions.types.tolist() == expected.tolist()
    assert Loader(questions, store, 4).batch(torch.arange(2)).features.dtype == torch.float32
    assert len(ANSWER_FUNCTIONS) == 13


def test_other_features_are_refused(tiny_set: Path, vocabulary: Vocabulary, tmp_path: Path) -> None:
    questions = QuestionDataset.load(tiny_set / "train_questions.h5", vocabulary)
    few = open_feature_store(tiny_set / "val_features_clevr_cnn.h5")
    with pytest.raises(UserError, match=r"asks about 60 images.*features of 20"):
        questions.with_features(few, "val.h5")
    with h5py.File(tmp_path / "f.h5", "w") as target:
        target["features"] = np.zeros((60, 2, 3, 3), np.float16)
        target.attrs["image_names_sha256"] = "0" * 64
    with pytest.raises(UserError, match="other names"):
        questions.with_features(open_feature_store(tmp_path / "f.h5"), "f.h5")


def test_another_vocabulary_is_refused(tiny_set: Path) -> None:
    other = Vocabulary.build({"a": 1}, [], ["yes"])
    with pytest.raises(UserError, match="another vocabulary"):
        QuestionDataset.load(tiny_set / "train_questions.h5", other)
