from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from filmvqa.clevr.programs import LAST_FUNCTIONS, QUESTION_TYPES
from filmvqa.data.loader import QuestionSet
from filmvqa.data.text import Vocabulary
from filmvqa.errors import UserError
from filmvqa.evaluation.accuracy import (
    accuracy_report,
    format_comparison,
    format_report,
    wilson_interval,
)
from filmvqa.evaluation.predictions import autocast
from filmvqa.evaluation.sweeps import markdown_table, read_runs, report_sweep, summarize


@pytest.mark.parametrize(
    ("correct", "total", "low", "high"),
    # R: prop.test(x, n, correct = FALSE)
    [
        (0, 10, 0.0, 0.27753),
        (10, 10, 0.72247, 1.0),
        (5, 10, 0.23659, 0.76341),
        (81, 263, 0.25525, 0.36619),
    ],
)
def test_wilson_intervals_agree_with_r(correct: int, total: int, low: float, high: float) -> None:
    assert wilson_interval(correct, total) == pytest.approx((low, high), abs=1e-4)


@given(st.integers(1, 10**6), st.data())
def test_wilson_intervals_hold_the_share(total: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, total))
    low, high = wilson_interval(correct, total)
    assert 0 <= low <= correct / total + 1e-12
    assert correct / total - 1e-12 <= high <= 1


def test_no_observations_tell_nothing() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.fixture(scope="module")
def questions(tiny_set: Path) -> QuestionSet:
    return QuestionSet.load(tiny_set / "val_questions.h5", Vocabulary.load(tiny_set / "vocab.json"))


def test_rows_add_up(questions: QuestionSet) -> None:
    torch.manual_seed(0)
    found = torch.where(torch.rand(len(questions)) < 0.4, questions.answers, -1)
    report = accuracy_report(found, questions)
    assert list(report["by_type"]) == list(QUESTION_TYPES)
    assert list(report["by_function"]) == list(LAST_FUNCTIONS)
    for key in ("by_type", "by_function", "by_family", "by_program_length"):
        for field in ("correct", "questions"):
            assert sum(row[field] for row in report[key].values()) == report["overall"][field]
    for kind, functions in QUESTION_TYPES.items():
        parts = [report["by_function"][f]["correct"] for f in functions]
        assert report["by_type"][kind]["correct"] == sum(parts)
    right = found == questions.answers
    member = questions.types == LAST_FUNCTIONS.index("query_color")
    expected = float(right[member].double().mean())
    assert report["by_function"]["query_color"]["accuracy"] == pytest.approx(expected)


def test_the_table_shows_what_is_asked_for(questions: QuestionSet) -> None:
    report = accuracy_report(questions.answers, questions)
    table = format_report(report)
    assert table.count("100.00%") == 1 + 5 + 13
    assert "family:" not in table
    longer = format_report(report, families=True, lengths=True)
    assert "family:" in longer
    assert "program length:" in longer
    both = format_comparison({"film": report, "question_only": report})
    assert both.splitlines()[0].split() == ["film", "question_only", "questions"]
    assert both.splitlines()[1].split()[:3] == ["overall", "100.0%", "100.0%"]


def test_questions_without_answers_cannot_be_scored(tiny_set: Path) -> None:
    vocabulary = Vocabulary.load(tiny_set / "vocab.json")
    questions = QuestionSet.load(tiny_set / "test_questions.h5", vocabulary)
    with pytest.raises(UserError, match="no answers"):
        accuracy_report(torch.zeros(len(questions)), questions)


def sweep(folder: Path, rows: list[tuple[float, int, float, float]]) -> Path:
    for decay, seed, train, val in rows:
        run = folder / f"decay={decay},seed={seed}"
        run.mkdir(parents=True)
        config = {"optim": {"weight_decay": decay, "lr": 0.1}, "seed": seed}
        (run / "config.yaml").write_text(yaml.safe_dump(config))
        records = [
            {"step": 5, "loss": 1.0},
            {"step": 10, "val_accuracy": val - 0.1, "train_accuracy": 0.99, "gap": 0.0},
            {"step": 20, "val_accuracy": val, "train_accuracy": train, "gap": train - val},
        ]
        (run / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    return folder


def test_a_sweep_becomes_table_and_figure(tmp_path: Path) -> None:
    folder = sweep(
        tmp_path,
        [(0.0, 0, 0.95, 0.60), (1e-5, 0, 0.9, 0.80), (1e-5, 1, 0.8, 0.70), (1e-3, 0, 0.5, 0.5)],
    )
    key, points = summarize(read_runs(folder))
    assert key == "optim.weight_decay"
    assert [p.value for p in points] == [0.0, 1e-5, 1e-3]
    assert [p.runs for p in points] == [1, 2, 1]
    assert points[1].val == pytest.approx(0.75)
    assert points[1].val_spread == pytest.approx(0.0707, abs=1e-4)
    assert points[0].gap == pytest.approx(0.35)
    table = report_sweep(folder)
    assert table == markdown_table(key, points) == (folder / "report.md").read_text()
    assert "| 1e-05 | 2 | 85.00 | 75.00 ± 7.07 | +10.00 |" in table
    assert (folder / "report.csv").read_text().splitlines()[
        1
    ] == "0.0,1,0.950000,0.600000,,0.350000"
    with Image.open(folder / "report.png") as image:
        assert image.size == (900, 600)


def test_sweeps_over_words_are_drawn_too(tmp_path: Path) -> None:
    for name in ("gru", "lstm"):
        run = tmp_path / name
        run.mkdir()
        (run / "config.yaml").write_text(yaml.safe_dump({"model": {"cell": name}}))
        record = {"step": 1, "val_accuracy": 0.5, "train_accuracy": 0.6, "gap": 0.1}
        (run / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    assert "| gru | 1 | 60.00 | 50.00 | +10.00 |" in report_sweep(tmp_path)


def test_reports_of_nothing_and_of_too_much_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no runs in it"):
        read_runs(tmp_path)
    folder = sweep(tmp_path, [(0.0, 0, 0.9, 0.6)])
    with pytest.raises(UserError, match="nothing differs"):
        summarize(read_runs(folder))
    assert summarize(read_runs(folder), "optim.lr")[1][0].value == 0.1


def test_auto_precision_follows_the_hardware(monkeypatch) -> None:
    x = torch.ones(4, 4)
    for fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("filmvqa.evaluation.predictions.has_fast_bfloat16", lambda _, f=fast: f)
        with autocast(torch.device("cpu"), "auto"):
            assert (x @ x).dtype == expected
        with autocast(torch.device("cpu"), "float32"):
            assert (x @ x).dtype == torch.float32
