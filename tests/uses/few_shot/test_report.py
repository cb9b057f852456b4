"""From files to a table: scores are counted again from the scenes; resuming and refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.uses.few_shot.report import format_few_shot, measure_few_shot
from tests.uses.few_shot.conftest import settings_for


@pytest.fixture(scope="module")
def measured(picture_set: DatasetLayout, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("output")
    return measure_few_shot(settings_for(picture_set, output, seeds=[0, 1]))[0]


def test_the_score_is_counted_again_from_the_scenes(
    picture_set: DatasetLayout, measured: Path
) -> None:
    scenes = json.loads(picture_set.scene_json("val").read_text())["scenes"]
    asked = json.loads((measured / "episodes.json").read_text())
    rows = json.loads((measured / "few_shot.json").read_text())["learners"]
    for name in ("film", "logistic_regression"):
        (row,) = (row for row in rows if row["learner"] == name)
        for seed in (0, 1):
            answers = json.loads((measured / f"{name}_8_{seed}.json").read_text())["answers"]
            right = [
                (a == "1") == any(e["concept"].items() <= o.items() for o in scenes[p]["objects"])
                for e, line in zip(asked, answers, strict=True)
                for p, a in zip(e["asked"], line, strict=True)
            ]
            assert np.mean(right[:900]) == pytest.approx(row["seen"][seed])
            assert np.mean(right[900:]) == pytest.approx(row["held_out"][seed])


def test_no_concept_is_both_seen_and_held_out(measured: Path) -> None:
    asked = [str(e["concept"]) for e in json.loads((measured / "episodes.json").read_text())]
    assert not {*asked[:90]} & {*asked[90:]}


def test_learning_helps(picture_set: DatasetLayout, tmp_path: Path) -> None:
    settings = settings_for(
        picture_set, tmp_path, learners=["prototypes"], widths=[32], word_steps=150, steps=60
    )
    report = measure_few_shot(settings)[1]
    assert report["learners"][0]["held_out"][0] > 0.9  # the ideal learner
    assert report["learners"][1]["held_out"][0] > 0.6


def test_a_learner_whose_result_is_there_is_not_trained_again(
    picture_set: DatasetLayout, measured: Path, tmp_path: Path
) -> None:
    first = measured / "film_8_0.json"
    before = first.read_bytes()
    again = measure_few_shot(settings_for(picture_set, measured, seeds=[0]))[1]
    assert first.read_bytes() == before
    assert "width 8" not in format_few_shot(again)
    fresh = measure_few_shot(settings_for(picture_set, tmp_path, learners=["film"]))[0]
    same = json.loads((fresh / first.name).read_text())["answers"]
    assert same == json.loads(before)["answers"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "other settings"), (b"{", "no result of few_shot.py"), (b"[]", "no result")],
)
def test_a_result_that_is_not_these_learners_is_refused(
    picture_set: DatasetLayout, measured: Path, tmp_path: Path, content: bytes | None, message: str
) -> None:
    path = tmp_path / "film_8_0.json"
    changed = {"word_steps": 6} if content is None else {}
    path.write_bytes((measured / path.name).read_bytes() if content is None else content)
    before = path.read_bytes()
    with pytest.raises(UserError, match=message) as caught:
        measure_few_shot(settings_for(picture_set, tmp_path, **changed))
    assert str(path) in str(caught.value) and path.read_bytes() == before


def test_features_of_other_images_are_refused(picture_set: DatasetLayout, tmp_path: Path) -> None:
    other = DatasetLayout.under(tmp_path / "other", backbone="clevr_cnn")
    for path in (other.scene_json("train"), other.feature_h5("train")):
        path.parent.mkdir(parents=True)
    other.scene_json("train").write_bytes(picture_set.scene_json("val").read_bytes())
    other.feature_h5("train").write_bytes(picture_set.feature_h5("train").read_bytes())
    with pytest.raises(UserError, match=r"train_features_clevr_cnn\.h5: has features of 400"):
        measure_few_shot(settings_for(other, tmp_path / "x"))
