"""A network's CLOSURE tests: the questions, and the report."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from filmvqa.evaluation.score_answers import score_answers
from filmvqa.evaluation.settings import ScoreSettings
from filmvqa.questions.settings import BackboneSettings, DataSettings
from filmvqa.studies.closure import NEAREST, format_tests, measure_closure
from filmvqa.studies.settings import ClosureSettings
from filmvqa.system.errors import UserError
from filmvqa.system.layout import EvaluationLayout
from filmvqa.tasks.protocol import find_task, read_predictions
from filmvqa.worlds.engine.families import CLOSURE, Family, read_families
from filmvqa.worlds.engine.schema import read_questions
from filmvqa.worlds.engine.world import read_world
from tests.training.tiny_runs import train


@pytest.fixture(scope="module")
def settings(
    tiny_world: Path, tiny_set: Path, tmp_path_factory: pytest.TempPathFactory
) -> ClosureSettings:
    folder = tmp_path_factory.mktemp("closure")
    train(folder / "run", tiny_set, max_steps=2, eval_every=2)
    data = DataSettings(
        name="tiny", root=str(tiny_world), features=str(folder / "features"),
        backbone=BackboneSettings("clevr_cnn"), image_size=(96, 96),
    )  # fmt: skip
    return ClosureSettings(data=data, checkpoint=str(folder / "run"), workers=1, device="cpu")


@pytest.fixture(scope="module")
def measured(settings: ClosureSettings) -> tuple[Path, dict[str, Any]]:
    return measure_closure(settings)


def test_each_tests_row_is_that_of_its_questions(measured: tuple[Path, dict[str, Any]]) -> None:
    folder, report = measured
    asked = read_questions(folder / "closure/questions/CLEVR_val_questions.json").questions
    predictions = read_predictions(EvaluationLayout(folder / "closure", "val").predictions)
    assert set(report["tests"]) == {names[0] for names in NEAREST}
    for name, row in report["tests"].items():
        chosen = [p for q, p in zip(asked, predictions, strict=True)
                  if q.template_filename == f"{name}.json"]  # fmt: skip
        assert row["questions"] == len(chosen) > 0
        assert row["correct"] == sum(p.score or 0 for p in chosen)
        truths = [p.truth for p in chosen]  # type: ignore[attr-defined]
        assert row["commonest_answer"] == max(map(truths.count, truths)) / len(truths)
        assert row["nearest"]["questions"] > 0
    assert json.loads((folder / "closure.json").read_text()) == report
    assert (folder / "closure.png").stat().st_size > 1000
    assert format_tests(report).count("\n") == len(report["tests"]) + 2


def test_the_mixed_questions_are_those_of_both(measured: tuple[Path, dict[str, Any]]) -> None:
    """These are for adapting a network: they are encoded, and numbered consecutively."""
    folder, _ = measured
    asked = {name: read_questions(folder / name / "questions/CLEVR_val_questions.json").questions
             for name in ("clevr", "closure", "mixed")}  # fmt: skip
    texts = {name: [q.question for q in questions] for name, questions in asked.items()}
    assert texts["mixed"] == texts["clevr"] + texts["closure"]
    assert [q.question_index for q in asked["mixed"]] == list(range(len(asked["mixed"])))
    assert (folder / "mixed/h5/val_questions.h5").exists()


def test_evaluations_list_the_template_files(measured: tuple[Path, dict[str, Any]]) -> None:
    folder, _ = measured
    written = json.loads((folder / "closure/val.json").read_text())
    scored = score_answers(
        ScoreSettings(
            answers=str(folder / "closure/val_predictions.jsonl"),
            questions=str(folder / "closure/questions/CLEVR_val_questions.json"),
        )
    )
    assert scored["by_group"] == written["by_group"]
    table = find_task("answers").format_report(written)
    assert "template file:" in table
    assert "embed_mat_spa" in table
    assert "by_group" not in json.loads((folder / "clevr/val.json").read_text())


def test_the_nearest_questions_have_the_same_programs_but_for_a_relation() -> None:
    """In CLEVR, a relation stands in the place of the match."""

    def steps(family: Family) -> list[str]:
        names: list[str] = []
        for node in family.template.nodes:
            of_node = node.type.split("_") if node.is_composite else [node.type]
            names += ["relate"] if node.type.startswith("same_") else of_node
        return names

    clevr = read_families()
    for (test, _), families in NEAREST.items():
        programs = [steps(family) for family in read_families(CLOSURE, [test])]
        assert all(steps(clevr[i]) in programs for i in families), test


def test_published_names_have_the_same_nearest_questions(
    settings: ClosureSettings, tmp_path: Path
) -> None:
    ours = read_world("clevr").templates.with_name(CLOSURE) / "or_mat.json"
    (tmp_path / "published").mkdir()
    shutil.copy(ours, tmp_path / "published/or_sim.json")
    changed = replace(
        settings, templates=str(tmp_path / "published"), output=str(tmp_path / "out"),
    )  # fmt: skip
    _, report = measure_closure(changed)
    assert list(report["tests"]) == ["or_sim"]
    assert report["tests"]["or_sim"]["nearest"]["accuracy"] is not None


def test_a_set_without_scenes_that_is_not_generated_is_refused(
    settings: ClosureSettings, tmp_path: Path
) -> None:
    elsewhere = replace(settings.data, root=str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"data=tiny has no data\.generator"):
        measure_closure(replace(settings, data=elsewhere))
