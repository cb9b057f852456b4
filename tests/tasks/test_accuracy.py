from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.devices import autocast
from filmvqa.system.errors import UserError
from filmvqa.tasks.accuracy import (
    accuracy_report,
    format_comparison,
    format_report,
    wilson_interval,
)
from filmvqa.worlds.engine.programs import ANSWER_FUNCTIONS, QUESTION_TYPES


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
def test_wilson_intervals_contain_the_observed_fraction(total: int, data: st.DataObject) -> None:
    correct = data.draw(st.integers(0, total))
    low, high = wilson_interval(correct, total)
    assert 0 <= low <= correct / total + 1e-12
    assert correct / total - 1e-12 <= high <= 1


def test_the_interval_of_no_observations_is_everything() -> None:
    assert wilson_interval(0, 0) == (0.0, 1.0)


@pytest.fixture(scope="module")
def questions(tiny_set: Path) -> QuestionDataset:
    return QuestionDataset.load(
        tiny_set / "val_questions.h5", Vocabulary.load(tiny_set / "vocab.json")
    )


def test_the_rows_of_each_table_add_up(questions: QuestionDataset) -> None:
    torch.manual_seed(0)
    predictions = torch.where(torch.rand(len(questions)) < 0.4, questions.answers, -1)
    report = accuracy_report(predictions, questions)
    assert list(report["by_type"]) == list(QUESTION_TYPES)
    assert list(report["by_function"]) == list(ANSWER_FUNCTIONS)
    for key in ("by_type", "by_function", "by_family", "by_program_length"):
        for field in ("correct", "questions"):
            assert sum(row[field] for row in report[key].values()) == report["overall"][field]
    for question_type, functions in QUESTION_TYPES.items():
        counts = [report["by_function"][function]["correct"] for function in functions]
        assert report["by_type"][question_type]["correct"] == sum(counts)
    is_correct = predictions == questions.answers
    asks_color = questions.types == ANSWER_FUNCTIONS.index("query_color")
    expected = float(is_correct[asks_color].double().mean())
    assert report["by_function"]["query_color"]["accuracy"] == pytest.approx(expected)


def test_the_table_shows_the_chosen_rows(questions: QuestionDataset) -> None:
    report = accuracy_report(questions.answers, questions)
    table = format_report(report)
    assert table.count("100.00%") == 1 + 5 + 13
    assert "family:" not in table
    full_table = format_report(report, families=True, lengths=True)
    assert "family:" in full_table
    assert "program length:" in full_table
    comparison = format_comparison({"film": report, "question_only": report})
    assert comparison.splitlines()[0].split() == ["film", "question_only", "questions"]
    assert comparison.splitlines()[1].split()[:3] == ["overall", "100.0%", "100.0%"]


def test_questions_without_answers_cannot_be_scored(tiny_set: Path) -> None:
    vocabulary = Vocabulary.load(tiny_set / "vocab.json")
    questions = QuestionDataset.load(tiny_set / "test_questions.h5", vocabulary)
    with pytest.raises(UserError, match="no answers"):
        accuracy_report(torch.zeros(len(questions)), questions)


def test_auto_precision_follows_the_hardware(monkeypatch) -> None:
    x = torch.ones(4, 4)
    for fast, expected in ((True, torch.bfloat16), (False, torch.float32)):
        monkeypatch.setattr("filmvqa.system.devices.has_fast_bfloat16", lambda _, f=fast: f)
        with autocast(torch.device("cpu"), "auto"):
            assert (x @ x).dtype == expected
        with autocast(torch.device("cpu"), "float32"):
            assert (x @ x).dtype == torch.float32
