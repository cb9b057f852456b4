"""Inspections: interventions on γ and β, recorded activations, tables, and the whole page."""

from __future__ import annotations

import csv
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from filmvqa.checkpoints.checkpoint import load_checkpoint
from filmvqa.evaluation.settings import AskedSettings
from filmvqa.film import film
from filmvqa.models import build_model
from filmvqa.models.fast.accelerate import accelerate
from filmvqa.models.protocols import (
    Modulation,
    as_modulated,
    can_record,
    record_activations,
    record_attention,
)
from filmvqa.studies.inspection import tables
from filmvqa.studies.inspection.answers import collect_answers
from filmvqa.studies.inspection.consistency import find_comparison
from filmvqa.studies.inspection.interventions import (
    add_noise,
    replace_film,
    scale_and_shift,
)
from filmvqa.studies.inspection.report import inspect_checkpoint
from filmvqa.studies.inspection.settings import InspectSettings
from filmvqa.system.errors import UserError
from filmvqa.worlds.clevr.scene_file import read_scenes
from filmvqa.worlds.engine.programs import SceneIndex, execute
from filmvqa.worlds.engine.schema import Function, read_questions
from tests.models.mac_equations import answer
from tests.models.small_models import SMALL
from tests.models.small_models import questions as random_questions
from tests.training.tiny_runs import train

SHAPE = [96, 6, 6]


def network(name: str = "film", **options: Any) -> Any:
    torch.manual_seed(0)
    return build_model(
        name, vocab_size=20, num_answers=5, feature_shape=SHAPE, **{**SMALL[name], **options}
    ).eval()


READS = {
    "reads": True, "block": {"input_proj_kernel": 0, "kernel_size": 1},
    "classifier": {"projection_dim": 0, "pool": "branch", "hidden_dims": [8]},
}  # fmt: skip


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(1)
    return torch.randn(3, *SHAPE), torch.randint(1, 20, (3, 7))


def test_changes_of_gamma_and_beta() -> None:
    gamma, beta = torch.randn(4, 3, 5), torch.randn(4, 3, 5)
    modulation = Modulation(gamma, beta, torch.zeros(4, 3, 0), torch.ones(4, 3, 2))
    both = scale_and_shift(scale=2, shift=1)(modulation)
    torch.testing.assert_close(both.gamma, 2 * gamma + 1)
    torch.testing.assert_close(both.beta, 2 * beta + 1)
    assert both.key is modulation.key
    one = scale_and_shift(scale=0, parameter="beta", layers=[1])(modulation)
    assert one.gamma is gamma
    assert (one.beta[:, 1] == 0).all()
    assert torch.equal(one.beta[:, [0, 2]], beta[:, [0, 2]])
    other = replace_film(gamma[0], beta[0], parameter="gamma", layers=[0, 2])(modulation)
    assert torch.equal(other.gamma[3, [0, 2]], gamma[0, [0, 2]])
    assert torch.equal(other.gamma[:, 1], gamma[:, 1])
    noisy = add_noise(0.5, torch.Generator().manual_seed(0), parameter="gamma")(
        Modulation(torch.zeros(200, 3, 50), beta, beta, beta)
    )
    assert float(noisy.gamma.std()) == pytest.approx(0.5, rel=0.02)
    assert noisy.beta is beta


@pytest.mark.parametrize("options", [{}, READS])
def test_a_change_lasts_as_long_as_its_block(options: dict[str, Any]) -> None:
    """With γ and β of one question, all questions about an image get the answer to this one."""
    model, (features, questions) = network(**options), inputs()
    features = features[:1].expand(3, -1, -1, -1)
    with torch.no_grad():
        before = model(features, questions)
        own = model.modulate(questions)
        with model.intervene(scale_and_shift()):
            torch.testing.assert_close(model(features, questions), before)
        with model.intervene(replace_film(own.gamma[0], own.beta[0])):
            after = model(features, questions)
        if not options:  # reads' keys are still those of each question
            torch.testing.assert_close(after, before[:1].expand(3, -1))
        assert not torch.allclose(before[1], before[0])
        torch.testing.assert_close(model(features, questions), before)
    with pytest.raises(UserError, match="no γ and β"):
        as_modulated(network("mac"))


@pytest.mark.parametrize("options", [{}, READS])
def test_recorded_maps(options: dict[str, Any]) -> None:
    """Maps before and after FiLM differ by γ and β, and recording does not change the answers, also
    where blocks with reads are fused."""
    model, (features, questions) = network(**options), inputs()
    accelerate(model)
    with torch.no_grad():
        logits = model(features, questions)
        modulation = model.modulate(questions)
        with record_activations(model) as maps:
            torch.testing.assert_close(model(features, questions), logits)
            assert len(maps.before) == len(maps.after) == model.film_generator.num_layers
            for i, (before, after) in enumerate(zip(maps.before, maps.after, strict=True)):
                expected = film(before, modulation.gamma[:, i], modulation.beta[:, i])
                torch.testing.assert_close(after, expected)
            places = maps.places()
            flat = maps.pooled.flatten(2)
    assert places.shape == (3, *maps.pooled.shape[2:])
    for i in range(3):
        live = [c for c in flat[i] if c.max() > c.min()]
        counts = torch.zeros(flat.shape[2])
        for channel in live:
            counts[channel.argmax()] += 1 / len(live)
        torch.testing.assert_close(places[i].flatten(), counts)


def test_networks_that_cannot_be_recorded() -> None:
    for model in (network("mac"), network(block={"conditioning": "concat"})):
        assert not can_record(model)
        with pytest.raises(UserError, match="no FiLM layers"), record_activations(model):
            pass


def test_macs_attention_is_that_of_its_equations() -> None:
    """For each step, over words and places; maps are not square, and images have two questions."""
    torch.manual_seed(0)
    model = build_model(
        "mac", vocab_size=20, num_answers=5, feature_shape=[6, 5, 4], **SMALL["mac"]
    ).eval()
    features, tokens = torch.randn(2, 6, 5, 4), random_questions([4, 7, 2])
    image_of_question = torch.tensor([1, 0, 1])
    with torch.no_grad():
        logits = model(features, tokens, image_of_question)
        with record_attention(model) as attention:
            with pytest.raises(UserError, match="run the model first"):
                attention.words()
            for _ in range(2):  # the last pass is recorded
                torch.testing.assert_close(model(features, tokens, image_of_question), logits)
        words, places = attention.words(), attention.places()
        assert words.shape == (3, 3, 7)
        assert places.shape == (3, 3, 5, 4)
        for i, row in enumerate(tokens):
            expected = answer(model, features[image_of_question[i]], row)
            length = int((row != 0).sum())
            torch.testing.assert_close(words[i, :, :length], expected[1])
            assert (words[i, :, length:] == 0).all()
            torch.testing.assert_close(places[i], expected[2].view(-1, 5, 4))
    assert float(places[0].std()) > 0
    with pytest.raises(UserError, match="no steps"), record_attention(network()):
        pass


def test_comparisons_and_their_counts(tiny_world: Path) -> None:
    """The counts of the two branches of a program imply its answer."""
    scenes = {
        s.image_index: s for s in read_scenes(tiny_world / "scenes/CLEVR_train_scenes.json").scenes
    }
    questions = read_questions(tiny_world / "questions/CLEVR_train_questions.json").questions
    found = 0
    for question in questions:
        comparison = find_comparison(question.program or [])
        last = question.program[-1]
        if last.function not in ("equal_integer", "less_than", "greater_than"):
            assert comparison is None
            continue
        values = execute(question.program, SceneIndex(scenes[question.image_index]))
        counts = [int(values[step]) for step in last.inputs]
        assert comparison.implied(*counts) == question.answer
        found += 1
    assert found > 20


def test_the_words_of_a_count() -> None:
    program = [
        Function("scene", []), Function("filter_color", [0], ["red"]),
        Function("filter_shape", [1], ["cube"]), Function("unique", [2]),
        Function("relate", [3], ["front"]), Function("filter_size", [4], ["small"]),
        Function("unique", [5]), Function("relate", [6], ["left"]),
        Function("filter_material", [7], ["metal"]), Function("count", [8]),
        Function("scene", []), Function("filter_shape", [10], ["sphere"]), Function("count", [11]),
        Function("less_than", [9, 12]),
    ]  # fmt: skip
    assert find_comparison(program).counts == (
        "How many metal things are left of the small thing that is in front of the red cube?",
        "How many spheres are there?",
    )
    program[4] = Function("same_size", [3])
    assert find_comparison(program) is None


def test_tables() -> None:
    correct = torch.tensor([True, False, True, True])
    table = tables.group_accuracy(correct, [1, 1, 2, None], "objects")
    assert [row[:2] + row[4:] for row in table.rows] == [[1, 0.5, 2], [2, 1.0, 1]]
    table = tables.count_confusions(
        torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1]), ["a", "b", "c"]
    )
    assert table.header == ["truth", "a", "b", "questions"]
    assert table.rows == [["a", 0.5, 0.5, 2], ["b", 0.0, 1.0, 1]]
    gamma = torch.randn(500, 2, 8)
    rows = tables.bin_film(gamma).rows
    width = rows[1][0] - rows[0][0]
    assert sum(row[1] for row in rows) * width == pytest.approx(1, rel=1e-3)
    statistics = tables.summarize_film(gamma, gamma + 9).rows
    assert statistics[1][:2] == ["gamma", 2]
    assert statistics[1][2] == pytest.approx(float(gamma[:, 1].mean()))
    assert statistics[2][6] == 0.0
    assert tables.bin_film(torch.ones(5, 1, 2)).rows
    words = torch.tensor([[[0.5, 0.5, 0.0, 0.0], [1.0, 0.0, 0.0, 0.0]]] * 2)  # (N, S, T)
    places = torch.stack([torch.full((2, 2, 3), 1 / 6), words[:, :1, :3].expand(2, 2, 3)], 1)
    rows = tables.summarize_attention(words, places).rows
    assert rows == [[1, pytest.approx(2), pytest.approx(6)],
                    [2, pytest.approx(1), pytest.approx(4)]]  # fmt: skip


def inspect(run: Path, output: Path, **options: Any) -> tuple[str, set[str]]:
    """Inspect a run's answers to the validation split; return the page, and the names of the files,
    which are those that the page names."""
    page = inspect_checkpoint(
        InspectSettings(checkpoint=run, output=output, device="cpu", **options)
    ).read_text()
    files = {path.name for path in output.iterdir()} - {".inspection.lock"}
    assert {*re.findall(r'(?:src|href)="([^"]+)"', page), "index.html"} == files
    return page, files


@pytest.mark.slow
@pytest.mark.parametrize("name", ["film", "mac"])
def test_a_whole_inspection(name: str, tiny_set: Path, tmp_path: Path) -> None:
    train(tmp_path / "run", tiny_set, name, precision="float32")
    page, files = inspect(tmp_path / "run", tmp_path / "out")
    assert "accuracy_by_objects.csv" in files
    assert ("γ lies between" in page) == (name == "film")
    assert ("attention.png" in files) == (name == "mac")
    if name == "mac":
        for kind in ("words", "places"):
            sums: dict[tuple[str, str], float] = {}
            with (tmp_path / f"out/attention_to_{kind}.csv").open() as stream:
                for row in csv.DictReader(stream):
                    key = (row["question_index"], row["step"])
                    sums[key] = sums.get(key, 0.0) + float(row["attention"])
            assert len(sums) == 4 * 3  # four questions, three steps
            assert all(total == pytest.approx(1, abs=1e-3) for total in sums.values())
    with h5py.File(tmp_path / "out/answers.h5") as file:
        scores, index = file["scores"][:], file["question_index"][:]
        assert ("gamma" in file) == (name == "film")
        texts = list(file.attrs["answers"])
    predictions = {int(i): texts[row.argmax()] for i, row in zip(index, scores, strict=True)}
    records = read_questions(tiny_set.parent / "questions/CLEVR_val_questions.json").questions
    right = sum(predictions[q.question_index] == q.answer for q in records)
    with (tmp_path / "out/accuracy_by_answer.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    total = sum(float(r["accuracy"]) * int(r["questions"]) for r in rows)
    assert total == pytest.approx(right, abs=0.01)
    best = load_checkpoint(tmp_path / "run")["progress"]["best_accuracy"]
    assert right / len(records) == pytest.approx(best, abs=0.02)


@pytest.mark.slow
def test_an_inspection_without_figures_that_cannot_be_drawn(
    tiny_set: Path, tmp_path: Path, no_figures: None, capsys
) -> None:
    """The numbers and the page are written, and the page names no figure."""
    train(tmp_path / "run", tiny_set, "film", precision="float32")
    _, files = inspect(tmp_path / "run", tmp_path / "out")
    assert "accuracy_by_objects.csv" in files
    assert not any(name.endswith(".png") for name in files)
    warnings = [x for x in capsys.readouterr().err.splitlines() if x.startswith("warning: ")]
    assert len(warnings) >= 8
    assert all("Matplotlib cannot draw it" in line for line in warnings)


def test_collected_answers_stand_in_the_order_of_the_rows(tiny_set: Path, tmp_path: Path) -> None:
    from filmvqa.evaluation.evaluate import open_questions

    train(tmp_path / "run", tiny_set, precision="float32")
    with open_questions(
        AskedSettings(checkpoint=tmp_path / "run", device="cpu", batch_size=7), "val"
    ) as asked:
        rows = torch.tensor([30, 2, 11, 19, 4, 33, 0, 8, 21])
        answers = collect_answers(asked.model, asked.loader, rows)
        for i, row in enumerate(rows.tolist()):
            batch = asked.loader.batch(torch.tensor([row]))
            with torch.no_grad():
                logits = asked.model(batch.features, batch.questions, batch.image_of_question)
                modulation = asked.model.modulate(batch.questions)
            torch.testing.assert_close(answers.scores[i], logits[0], rtol=1e-3, atol=1e-4)
            torch.testing.assert_close(answers.gamma[i], modulation.gamma[0], rtol=1e-3, atol=1e-4)


def test_an_inspection_of_few_questions(tiny_set: Path, tmp_path: Path) -> None:
    """Without distances (of one question, or of questions with the same words) t-SNE is left out,
    and nothing else, without a warning."""
    train(tmp_path / "run", tiny_set, "film", precision="float32")
    same = Path(shutil.copytree(tiny_set, tmp_path / "same"))
    with h5py.File(same / "val_questions.h5", "r+") as file:
        file["questions"][:] = file["questions"][0]
        file.attrs.pop("sha256")
    for number, (options, has_points) in enumerate([
        ({"max_questions": 1}, False), ({"max_questions": 2}, True), ({"max_questions": 3}, True),
        ({"h5": same}, False),
    ]):  # fmt: skip
        with warnings.catch_warnings(action="error"):
            _, files = inspect(tmp_path / "run", tmp_path / f"{number}", **options)
        assert ("points.png" in files) == has_points
