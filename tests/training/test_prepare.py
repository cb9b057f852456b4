"""What a run would fail on at its first evaluation is refused before its first step."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from filmvqa.questions.settings import CurriculumStage
from filmvqa.system.errors import UserError
from tests.training.tiny_runs import metrics, train


def without(dataset: str, path: Path) -> None:
    with h5py.File(path, "r+") as file:
        del file[dataset]
        del file.attrs["sha256"]


def with_attribute(name: str, value: Any, path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs[name] = value


def of_another_shape(path: Path) -> None:
    """In film's format, which has no attributes."""
    with h5py.File(path, "r") as file:
        maps = file["features"][:, :-1].astype(np.float32)
    path.unlink()
    with h5py.File(path, "w") as file:
        file["features"] = maps


@pytest.mark.parametrize("store", ["memory", "stream"])
@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("val_questions.h5", lambda p: without("answers", p),
         r"val_questions\.h5: has no answers to compare with; choose another data\.val_split"),
        ("train_questions.h5", lambda p: without("answers", p),
         r"train_questions\.h5: has no answers to train on; choose another data\.train_split"),
        ("val_features_clevr_cnn.h5", of_another_shape,
         r"val_features_clevr_cnn\.h5: features of shape .*, those of .*/train_features"),
        ("val_features_clevr_cnn.h5", lambda p: with_attribute("weights_sha256", "0" * 64, p),
         r"val_features_clevr_cnn\.h5: differs from .*train_features\S+ in weights_sha256; extract"),
        ("val_features_clevr_cnn.h5", lambda p: with_attribute("stage", 2, p),
         r"val_features_clevr_cnn\.h5: differs from .*train_features\S+ in stage; extract"),
        ("val_features_clevr_cnn.h5", Path.unlink, r"val_features_clevr_cnn\.h5: no such file"),
        ("val_questions.h5", Path.unlink, r"val_questions\.h5: no such file"),
    ],
)  # fmt: skip
def test_what_validation_lacks_is_told_before_the_first_step(
    file: str, change: Any, message: str, store: str, tmp_path: Path, tiny_set: Path
) -> None:
    data = Path(shutil.copytree(tiny_set, tmp_path / "data"))
    change(data / file)
    with pytest.raises(UserError, match=message):
        train(tmp_path / "run", data, run={"store": store})
    assert [p.name for p in (tmp_path / "run").iterdir()] == [".lock"]


def test_features_of_another_precision_are_a_warning(
    tmp_path: Path, tiny_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = Path(shutil.copytree(tiny_set, tmp_path / "data"))
    with_attribute("precision", "float16", data / "val_features_clevr_cnn.h5")
    with_attribute("weights", "the same under another name", data / "val_features_clevr_cnn.h5")
    train(tmp_path / "run", data, max_steps=2, eval_every=2)
    (line,) = capsys.readouterr().err.split("warning: ")[1:]
    assert line.splitlines()[0].endswith("train_features_clevr_cnn.h5 in precision")


def test_a_fraction_that_leaves_nothing_to_validate_on(tmp_path: Path, tiny_set: Path) -> None:
    splits = ("train", "train")
    with pytest.raises(
        UserError, match=r"data\.fraction=0\.999 takes all images of train, and leaves"
    ):
        train(tmp_path / "run", tiny_set, splits=splits, run={"fraction": 0.999})
    train(tmp_path / "run", tiny_set, splits=splits, max_steps=8, run={"fraction": 0.9})
    assert metrics(tmp_path / "run")[-1]["step"] == 8


def test_without_types_accuracy_is_overall(tmp_path: Path, tiny_set: Path) -> None:
    data = Path(shutil.copytree(tiny_set, tmp_path / "data"))
    with h5py.File(data / "val_questions.h5", "r+") as file:
        del file["types"], file["programs"], file.attrs["sha256"]
    train(tmp_path / "run", data, max_steps=8)
    assert "val_by_type" not in metrics(tmp_path / "run")[-1]


def test_a_curriculum_of_nothing_is_refused(tmp_path: Path, tiny_set: Path) -> None:
    for stage in (
        CurriculumStage(questions=9, program_length=1), CurriculumStage(questions=9, families=[99])
    ):  # fmt: skip
        with pytest.raises(UserError, match=r"data\.curriculum: the stage of 9 questions has none"):
            train(tmp_path / "run", tiny_set, run={"curriculum": [stage]})
    data = Path(shutil.copytree(tiny_set, tmp_path / "data"))
    with h5py.File(data / "train_questions.h5", "r+") as file:
        del file["types"], file["programs"], file["question_families"], file.attrs["sha256"]
    for stage, what in (
        (CurriculumStage(questions=9, program_length=9), "programs"),
        (CurriculumStage(questions=9, families=[1]), "families"),
    ):
        with pytest.raises(UserError, match=f"has no {what} for data.curriculum"):
            train(tmp_path / "run", data, run={"curriculum": [stage]})
