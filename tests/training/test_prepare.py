"""Data and options on which a run would fail later are refused before its first step."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from filmvqa.questions.settings import CurriculumStage
from tests.training.tiny_runs import Runs


def without(datasets: list[str], path: Path) -> None:
    with h5py.File(path, "r+") as file:
        for name in datasets:
            del file[name]
        del file.attrs["sha256"]


def with_attribute(name: str, value: Any, path: Path) -> None:
    with h5py.File(path, "r+") as file:
        file.attrs[name] = value


def of_another_shape(path: Path) -> None:
    """Fewer channels, in film's format, which has no attributes."""
    with h5py.File(path, "r") as file:
        maps = file["features"][:, :-1].astype(np.float32)
    path.unlink()
    with h5py.File(path, "w") as file:
        file["features"] = maps


@pytest.mark.parametrize("store", ["memory", "stream"])
@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("val_questions.h5", lambda p: without(["answers"], p),
         r"val_questions\.h5: has no answers to compare with; choose another data\.val_split"),
        ("train_questions.h5", lambda p: without(["answers"], p),
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
def test_data_that_do_not_fit_are_refused(
    runs: Runs, file: str, change: Any, message: str, store: str
) -> None:
    runs.data = Path(shutil.copytree(runs.data, runs.folder / "data"))
    change(runs.data / file)
    runs.refuse(message, run={"store": store})
    assert [p.name for p in (runs.folder / "run").iterdir()] == [".lock"]


def stage(**rules: Any) -> dict[str, Any]:
    return {"run": {"curriculum": [CurriculumStage(questions=9, **rules)]}}


NO_FRACTION = "above 0 and at most 1"
NO_STAGE = r"data\.curriculum: the stage of 9 questions has none"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"run": {"fraction": 0.0}}, NO_FRACTION),
        ({"run": {"fraction": -0.5}}, NO_FRACTION),
        ({"run": {"fraction": 1.5}}, NO_FRACTION),
        ({"run": {"fraction": float("nan")}}, NO_FRACTION),
        ({"run": {"fraction": 1e-4}}, "selects none of .* images; raise it"),
        ({"splits": ("train", "train"), "run": {"fraction": 0.999}},
         r"data\.fraction=0\.999 takes all images of train, and leaves"),
        ({"splits": ("val", "val")}, "images are left"),
        (stage(program_length=1), NO_STAGE),
        (stage(families=[99]), NO_STAGE),
        ({"name": "film_segmentation"}, r"train_masks\.h5: no such file"),
    ],
    ids=str,
)  # fmt: skip
def test_options_that_do_not_fit_are_refused(runs: Runs, options: dict, message: str) -> None:
    runs.refuse(message, **options)


def test_features_of_another_precision_are_a_warning(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.data = Path(shutil.copytree(runs.data, runs.folder / "data"))
    path = runs.data / "val_features_clevr_cnn.h5"
    with_attribute("precision", "float16", path)
    with_attribute("weights", "the same under another name", path)
    runs.train(max_steps=8, eval_every=8)
    (line,) = capsys.readouterr().err.split("warning: ")[1:]
    assert line.splitlines()[0].endswith("train_features_clevr_cnn.h5 in precision")


def test_questions_without_types_have_overall_accuracy_and_no_curriculum(runs: Runs) -> None:
    runs.data = Path(shutil.copytree(runs.data, runs.folder / "data"))
    without(["types", "programs"], runs.data / "val_questions.h5")
    runs.train(max_steps=8)
    assert "val_by_type" not in runs.metrics()[-1]
    path = runs.data / "train_questions.h5"
    without(["types", "programs", "question_families"], path)
    runs.refuse("has no programs for data.curriculum", "a", **stage(program_length=9))
    runs.refuse("has no families for data.curriculum", "b", **stage(families=[1]))
