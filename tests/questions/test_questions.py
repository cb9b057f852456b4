from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from filmvqa.evaluation.batches import Loader
from filmvqa.features.store import FeatureStore, open_feature_store
from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.settings import DataSettings
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from filmvqa.system.hdf5 import image_name_crc32
from filmvqa.worlds.engine.programs import ANSWER_FUNCTIONS


@pytest.fixture(scope="module")
def vocabulary(tiny_set: Path) -> Vocabulary:
    return Vocabulary.load(tiny_set / "vocab.json")


def test_files_of_film_load(tiny_set: Path, vocabulary: Vocabulary, tmp_path: Path) -> None:
    """Without attributes, with float32 features and unordered type ids: programs give the types."""
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
        target["features"] = np.ones((images, 2, 3, 3), np.float32)
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


@pytest.mark.parametrize("order", ["prefix", "postfix"])
@pytest.mark.parametrize("with_start", [True, False])
def test_types_of_programs_in_either_order(
    tiny_set: Path, vocabulary: Vocabulary, tmp_path: Path, order: str, with_start: bool
) -> None:
    """clevr-iep and ns-vqa also write programs in postfix order, or in the release's ("chain")."""
    with h5py.File(tiny_set / "val_questions.h5") as source:
        arrays = {name: source[name][:] for name in ("questions", "image_idxs", "programs")}
        expected = source["types"][:]
    for row in arrays["programs"]:
        steps = row[row >= 4]
        row[:] = 0
        steps = steps if order == "prefix" else steps[::-1]
        row[: len(steps) + 2 * with_start] = [1, *steps, 2] if with_start else steps
    with h5py.File(tmp_path / "q.h5", "w") as target:
        for name, values in arrays.items():
            target[name] = values
    dataset = QuestionDataset.load(tmp_path / "q.h5", vocabulary)
    assert dataset.types is not None
    assert dataset.types.tolist() == expected.tolist()


def store_of(folder: Path, images: list[int], names: list[str] | None = None) -> FeatureStore:
    """Open a store of features of these images."""
    path = folder / "f.h5"
    with h5py.File(path, "w") as target:
        target["features"] = np.ones((len(images), 2, 3, 3), np.float16)
        target["image_idxs"] = np.array(images, np.int32)
    store = open_feature_store(path)
    store.image_name_crc32 = None if names is None else image_name_crc32(names)
    return store


def test_questions_about_images_without_features_are_refused_or_left_out(
    tiny_set: Path, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    questions = QuestionDataset.load(tiny_set / "val_questions.h5", vocabulary)
    store = store_of(tmp_path, [3, 4, 7])
    with pytest.raises(UserError, match=r"asks about 20 images, .*features of 3 .*=leave_out"):
        questions.with_features(store, "f.h5")
    kept = questions.with_features(store, "f.h5", "leave_out")
    assert set(kept.images.tolist()) == {3, 4, 7}
    assert torch.equal(kept.images, questions.images[kept.rows])
    assert torch.equal(kept.questions, questions.questions[kept.rows])
    for missing_images in ("refuse", "leave_out"):
        with pytest.raises(UserError, match="features of 0 of them"):
            questions.with_features(store_of(tmp_path, [99]), "f.h5", missing_images)


def test_an_image_with_another_name_is_refused(
    tiny_set: Path, vocabulary: Vocabulary, tmp_path: Path
) -> None:
    questions = QuestionDataset.load(tiny_set / "val_questions.h5", vocabulary)
    names = [f"CLEVR_val_{i:06d}.png" for i in range(20)]
    images = [3, 4, 7]
    same = store_of(tmp_path, images, [names[i] for i in images])
    assert len(questions.with_features(same, "f.h5", "leave_out"))
    for endings in ((".jpg",) * 3, (".JPEG", ".png", ".PNG")):  # JPEGs where the JSON says .png
        renamed = [names[i][:-4] + end for i, end in zip(images, endings, strict=True)]
        assert len(
            questions.with_features(store_of(tmp_path, images, renamed), "f.h5", "leave_out")
        )
    other = store_of(tmp_path, images, [names[3], names[5], names[7]])
    with pytest.raises(UserError, match="image 4 has another name there"):
        questions.with_features(other, "f.h5", "leave_out")


def test_questions_of_some_families(tiny_set: Path, vocabulary: Vocabulary, tmp_path: Path) -> None:
    questions = QuestionDataset.load(tiny_set / "val_questions.h5", vocabulary)
    assert questions.families is not None
    families = questions.families.unique()[:2].tolist()
    path = tmp_path / "families.json"
    path.write_text(json.dumps(families[::-1]))
    for value in (str(path), families[::-1]):
        assert DataSettings(name="x", root="x", families=value).chosen_families == families
    chosen = questions.of_families(families)
    assert set(chosen.families.tolist()) == set(families)
    assert 0 < len(chosen) < len(questions) == len(questions.of_families(None))
    with pytest.raises(UserError, match=r"no questions of data\.families=\[1000\]"):
        questions.of_families([1000])
    with pytest.raises(UserError, match="has no question_families"):
        replace(questions, families=None).of_families(families)


@pytest.mark.parametrize("content", ["[]", "{}", "[1.5]", '"5"', "[true]", "[-1]", "3", "[", "x"])
def test_bad_values_of_families_are_refused(tmp_path: Path, content: str) -> None:
    path = tmp_path / "families.json"
    path.write_text(content)
    with pytest.raises(UserError, match=r"families\.json"):
        _ = DataSettings(name="x", root="x", families=str(path)).chosen_families
    with pytest.raises(UserError, match=r"absent\.json: no such file"):
        _ = DataSettings(name="x", root="x", families=str(tmp_path / "absent.json")).chosen_families
    with pytest.raises(UserError, match=r"data\.families"):
        DataSettings(name="x", root="x", families=[-1])
