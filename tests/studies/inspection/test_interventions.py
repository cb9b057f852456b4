"""Evaluations with changed γ and β."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from filmvqa.evaluation.evaluate import evaluate_checkpoint, open_questions
from filmvqa.evaluation.settings import AskedSettings, EvaluateSettings
from filmvqa.studies.inspection.interventions import build_network_change
from filmvqa.studies.inspection.settings import FilmSettings
from filmvqa.system.errors import UserError
from tests.conftest import run_script
from tests.training.tiny_runs import train

QUESTION = "How many cubes are there?"


@pytest.fixture(scope="module")
def run(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("changed") / "run"
    train(folder, tiny_set, precision="float32", max_steps=48)
    return folder


def evaluated(run: Path, output: Path, **film: Any) -> tuple[Path, dict[str, Any], list[str]]:
    """Evaluate with a change; return the folder, the report and the answers."""
    settings = EvaluateSettings(
        checkpoint=run, split="val", output=output, device="cpu", precision="float32"
    )
    files, report = evaluate_checkpoint(settings, build_network_change(FilmSettings(**film)))
    assert report == json.loads(files.report.read_text())
    lines = files.predictions.read_text().splitlines()
    return files.folder, report, [json.loads(line)["answer"] for line in lines]


def test_the_gamma_and_beta_of_another_question(run: Path, tmp_path: Path) -> None:
    """All answers are those to this question, if the question acts only by γ and β."""
    with (
        open_questions(AskedSettings(checkpoint=run, device="cpu"), "val") as asked,
        torch.no_grad(),
    ):
        encoded = torch.tensor([asked.vocabulary.encode(QUESTION)])
        expected = []
        for image in asked.loader.questions.images.tolist():
            features = asked.loader.store.read(torch.tensor([image]))
            answer = int(asked.model(features, encoded).argmax())
            expected.append(asked.vocabulary.answers()[answer])
    _, _, plain = evaluated(run, tmp_path)
    _, report, answers = evaluated(run, tmp_path, question=QUESTION)
    assert sum(a == b for a, b in zip(answers, expected, strict=True)) >= len(expected) - 1
    assert answers != plain
    assert report["film"]["question"] == QUESTION


def test_a_changed_evaluation_is_one_of_its_own(run: Path, tmp_path: Path) -> None:
    folder, report, plain = evaluated(run, tmp_path)
    before = {path: path.read_bytes() for path in folder.glob("val*")}
    assert "film" not in report
    other, report, answers = evaluated(run, tmp_path, scale=0.0, parameter="gamma", layers=[1, 2])
    assert other == folder / "gamma_scale_0.0_layers_1_2"
    assert report["film"].items() >= {"question": None, "scale": 0.0, "shift": 0.0,
                                      "parameter": "gamma", "layers": [1, 2]}.items()  # fmt: skip
    assert answers != plain
    assert {path: path.read_bytes() for path in folder.glob("val*")} == before
    names = {
        FilmSettings(**film).folder_name
        for film in ({"shift": 1.0}, {"scale": 2.0}, {"scale": 2.0, "layers": [1]},
                     {"question": "a"}, {"question": "b"}, {"shift": 1.0, "parameter": "beta"})
    }  # fmt: skip
    assert len(names) == 6


def test_what_cannot_be_changed_is_one_line(
    run: Path, tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def predict(*arguments: Any, **options: Any) -> None:
        raise AssertionError("questions were answered")

    monkeypatch.setattr("filmvqa.evaluation.evaluate.predict", predict)
    with pytest.raises(UserError, match=r"^film\.layers=\[1, 3\]: this model has 2 FiLM layers"):
        evaluated(run, tmp_path, shift=1.0, layers=[1, 3])
    with pytest.raises(UserError, match=r"^film\.question: the word 'cubbes'"):
        evaluated(run, tmp_path, question="How many cubbes are there?")
    with pytest.raises(UserError, match=r"give film\.scale, film\.shift or film\.question"):
        evaluated(run, tmp_path, layers=[1])
    train(tmp_path / "mac", tiny_set, "mac", max_steps=1, eval_every=1)
    with pytest.raises(UserError, match=r"^film: this model has no γ and β"):
        evaluated(tmp_path / "mac", tmp_path, shift=1.0)


@pytest.mark.slow
def test_it_is_an_option_of_the_script(run: Path, tmp_path: Path) -> None:
    done = run_script(
        "evaluate.py", f"checkpoint={run}", f"output={tmp_path}", "device=cpu", "film.scale=0",
        "film.shift=1", "film.layers=[2]", f"film.question='{QUESTION}'", cwd=tmp_path,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (report,) = tmp_path.glob("gamma_beta_question_*_scale_0.0_shift_1.0_layers_2/val.json")
    assert str(report) in done.stdout
    assert json.loads(report.read_text())["film"]["question"] == QUESTION
