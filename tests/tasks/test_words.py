"""Reports of answers in words."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.tasks.words import WordTask, format_comparison
from filmvqa.worlds.engine.programs import ANSWER_FUNCTIONS, QUESTION_TYPES


@pytest.fixture(scope="module")
def questions(tiny_set: Path) -> QuestionDataset:
    return QuestionDataset.load(
        tiny_set / "val_questions.h5", Vocabulary.load(tiny_set / "vocab.json")
    )


def test_the_rows_of_each_table_add_up(questions: QuestionDataset) -> None:
    torch.manual_seed(0)
    predictions = torch.where(torch.rand(len(questions)) < 0.4, questions.answers, -1)
    report = WordTask().report(predictions, questions.answers, questions)
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
    task = WordTask()
    report = task.report(questions.answers, questions.answers, questions)
    table = task.format_report(report)
    assert table.count("100.00%") == 1 + 5 + 13
    assert "family:" not in table
    full_table = task.format_report(report, families=True, lengths=True)
    assert "family:" in full_table
    assert "program length:" in full_table
    comparison = format_comparison({"film": report, "question_only": report})
    assert comparison.splitlines()[0].split() == ["film", "question_only", "questions"]
    assert comparison.splitlines()[1].split()[:3] == ["overall", "100.0%", "100.0%"]
