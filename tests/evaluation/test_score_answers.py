"""Scores of a file of answers compared with a question JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from filmvqa.evaluation.score_answers import score_answers
from filmvqa.evaluation.settings import ScoreSettings
from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from filmvqa.tasks.words import WordTask
from filmvqa.worlds.engine.schema import read_questions
from filmvqa.worlds.sound.scenes import SOUND
from tests.worlds.sound.small_sets import make_set

NUMBERS = {"0": "zero", "1": "one", "2": "two", "3": "three", "4": "four", "10": "ten"}


@pytest.fixture
def questions(tiny_world: Path) -> Path:
    return tiny_world / "questions/CLEVR_val_questions.json"


@pytest.fixture
def truths(questions: Path) -> list[str]:
    return [str(q.answer) for q in read_questions(questions).questions]


@pytest.fixture
def answers(truths: list[str]) -> list[str]:
    """Answers of which about half are wrong."""
    return [truth if i % 2 else "pink" for i, truth in enumerate(truths)]


def write(path: Path, lines: Sequence[str | dict]) -> Path:
    """Write answers, or records as JSON, one per line."""
    texts = [line if isinstance(line, str) else json.dumps(line) for line in lines]
    path.write_text("".join(f"{text}\n" for text in texts))
    return path


def score(path: Path, questions: Path, **options: Any) -> dict[str, Any]:
    return score_answers(ScoreSettings(answers=path, questions=questions, **options))


def refuse(path: Path, questions: Path, message: str, **options: Any) -> None:
    with pytest.raises(UserError, match=message):
        score(path, questions, **options)


def expected(tiny_set: Path, answers: list[str]) -> dict:
    """The report of the same answers as predictions."""
    vocabulary = Vocabulary.load(tiny_set / "vocab.json")
    dataset = QuestionDataset.load(tiny_set / "val_questions.h5", vocabulary)
    predictions = torch.tensor([vocabulary.answer.get(answer, -1) for answer in answers])
    return WordTask().report(predictions, dataset.answers, dataset)


@pytest.mark.parametrize("end", ["\n", "\r\n", " \n"])
def test_one_answer_per_line(
    tiny_set: Path, questions: Path, answers: list[str], tmp_path: Path, end: str
) -> None:
    path = tmp_path / "answers.txt"
    path.write_bytes("".join(f"{answer}{end}" for answer in answers).encode())
    report = score(path, questions, output=tmp_path / "report.json")
    assert report == {
        "answers": str(path),
        "questions": str(questions),
        "no_answers": len(answers) - len(answers) // 2,
        **expected(tiny_set, answers),
    }
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert 0 < report["overall"]["correct"] == len(answers) // 2


@pytest.fixture
def records(questions: Path, answers: list[str]) -> list[dict]:
    return [
        {"question_index": q.question_index, "image_index": q.image_index, "answer": answer}
        for q, answer in zip(read_questions(questions).questions, answers, strict=True)
    ]


def test_predictions_of_an_evaluation(
    tiny_set: Path, questions: Path, answers: list[str], records: list[dict], tmp_path: Path
) -> None:
    path = write(tmp_path / "val_predictions.jsonl", records)
    assert score(path, questions).items() >= expected(tiny_set, answers).items()


def test_predictions_of_other_questions_are_refused(
    questions: Path, records: list[dict], tmp_path: Path
) -> None:
    path = tmp_path / "p.jsonl"
    records[3]["image_index"] += 1
    message = r"p\.jsonl: line 4 answers question_index 3 about image"
    refuse(write(path, records), questions, message)
    del records[3]["answer"]
    refuse(write(path, records), questions, r"p\.jsonl: line 4: .*answer")


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("name", ["answers.txt", "p.jsonl"])
def test_another_number_of_answers_is_refused(
    questions: Path, answers: list[str], records: list[dict], tmp_path: Path, name: str, change: int
) -> None:
    lines: list = records if name.endswith("jsonl") else answers
    path = write(tmp_path / name, lines[:-1] if change < 0 else [*lines, lines[-1]])
    message = f"{name}: has {len(answers) + change} answers, .* {len(answers)} questions"
    refuse(path, questions, message)


def test_questions_without_answers_are_refused(tiny_world: Path, tmp_path: Path) -> None:
    questions = tiny_world / "questions/CLEVR_test_questions.json"
    path = write(tmp_path / "a.txt", ["yes"] * len(read_questions(questions).questions))
    refuse(path, questions, "has no answers to compare with")


def test_a_question_without_an_answer_is_named(
    questions: Path, answers: list[str], tmp_path: Path
) -> None:
    content = json.loads(questions.read_bytes())
    del content["questions"][2]["answer"]
    (tmp_path / "q.json").write_text(json.dumps(content))
    path = write(tmp_path / "a.txt", answers)
    refuse(path, tmp_path / "q.json", r"q\.json: question 2: has no answer")


@pytest.mark.parametrize(
    "form",
    [
        str.upper, str.capitalize, "{}.".format, "  '{}' ".format, "“{}”".format, "**{}**".format,
        "The answer is {}.".format, "Answer: {}".format, "the answer is: {}".format, "A: {}".format,
        "it is {}".format, "a {}".format, lambda answer: NUMBERS.get(answer, answer).capitalize(),
    ],
)  # fmt: skip
def test_answers_in_another_form_are_right(
    questions: Path, truths: list[str], tmp_path: Path, form: Callable[[str], str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    report = score(write(tmp_path / "a.txt", list(map(form, truths))), questions)
    assert report["overall"]["accuracy"] == 1
    assert report["no_answers"] == 0
    assert not capsys.readouterr().err


def test_lines_that_are_not_answers_are_counted(
    questions: Path, truths: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also a line that contains a right answer beside another."""
    path = write(tmp_path / "a.txt", ["yes or no", "not sure", "", *truths[3:]])
    report = score(path, questions)
    assert report["no_answers"] == 3
    assert report["overall"]["correct"] == len(truths) - 3
    warning = capsys.readouterr().err
    assert f"a.txt: 3 of {len(truths)} lines are no answer" in warning
    assert "line 1: 'yes or no'" in warning


def test_a_file_of_hardly_any_answers_is_refused(
    questions: Path, truths: list[str], tmp_path: Path
) -> None:
    count = len(truths)
    path = write(tmp_path / "a.txt", ["yes", *["I see three cubes"] * (count - 1)])
    refuse(path, questions, rf"a\.txt: {count - 1} of {count} lines .*one answer")


def test_a_report_is_not_written_over_its_inputs(questions: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.txt", ["yes"])
    refuse(path, questions, "would overwrite", output=path)


def test_answers_about_sounds_are_scored_by_their_types(tmp_path: Path) -> None:
    """One of these types, questions for a position, is none of CLEVR's."""
    layout = make_set(tmp_path / "sounds")
    questions = layout.question_json("train")
    truths = [str(q.answer) for q in read_questions(questions).questions]
    report = score(write(tmp_path / "answers.txt", truths), questions, world="sound")
    vocabulary = Vocabulary.load(layout.vocabulary)
    dataset = QuestionDataset.load(layout.question_h5("train"), vocabulary)
    expected_report = WordTask().report(dataset.answers, dataset.answers, dataset)
    assert report["by_type"] == expected_report["by_type"]
    assert set(report["by_type"]) == set(SOUND.question_types)
