"""Scoring a file of answers against a question JSON."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

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
def given(questions: Path) -> list[str]:
    """Answers of which about half are wrong."""
    truths = [str(q.answer) for q in read_questions(questions).questions]
    return [truth if i % 2 else "pink" for i, truth in enumerate(truths)]


def expected(tiny_set: Path, given: list[str]) -> dict:
    vocabulary = Vocabulary.load(tiny_set / "vocab.json")
    dataset = QuestionDataset.load(tiny_set / "val_questions.h5", vocabulary)
    predictions = torch.tensor([vocabulary.answer.get(answer, -1) for answer in given])
    return WordTask().report(predictions, dataset.answers, dataset)


@pytest.mark.parametrize("end", ["\n", "\r\n", " \n"])
def test_one_answer_per_line(
    tiny_set: Path, questions: Path, given: list[str], tmp_path: Path, end: str
) -> None:
    path = tmp_path / "answers.txt"
    path.write_bytes("".join(f"{answer}{end}" for answer in given).encode())
    report = score_answers(
        ScoreSettings(answers=path, questions=questions, output=tmp_path / "report.json")
    )
    assert report == {
        "answers": str(path),
        "questions": str(questions),
        "no_answers": len(given) - len(given) // 2,
        **expected(tiny_set, given),
    }
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert 0 < report["overall"]["correct"] == len(given) // 2


def records(questions: Path, given: list[str]) -> list[dict]:
    return [
        {"question_index": q.question_index, "image_index": q.image_index, "answer": answer}
        for q, answer in zip(read_questions(questions).questions, given, strict=True)
    ]


def write(path: Path, content: list[dict]) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in content))
    return path


def test_our_own_predictions(
    tiny_set: Path, questions: Path, given: list[str], tmp_path: Path
) -> None:
    path = write(tmp_path / "val_predictions.jsonl", records(questions, given))
    report = score_answers(ScoreSettings(answers=path, questions=questions))
    assert report.items() >= expected(tiny_set, given).items()


def test_predictions_of_other_questions_are_refused(
    questions: Path, given: list[str], tmp_path: Path
) -> None:
    content = records(questions, given)
    content[3]["image_index"] += 1
    with pytest.raises(UserError, match=r"p\.jsonl: line 4 answers question_index 3 about image"):
        score_answers(
            ScoreSettings(answers=write(tmp_path / "p.jsonl", content), questions=questions)
        )
    del content[3]["answer"]
    with pytest.raises(UserError, match=r"p\.jsonl: line 4: .*answer"):
        score_answers(
            ScoreSettings(answers=write(tmp_path / "p.jsonl", content), questions=questions)
        )


@pytest.mark.parametrize("change", [-1, 1])
@pytest.mark.parametrize("name", ["answers.txt", "p.jsonl"])
def test_another_number_of_answers_is_refused(
    questions: Path, given: list[str], tmp_path: Path, name: str, change: int
) -> None:
    path = tmp_path / name
    if name.endswith("jsonl"):
        content = records(questions, given)
        write(path, content[:-1] if change < 0 else [*content, content[-1]])
    else:
        path.write_text("\n".join(given[:-1] if change < 0 else [*given, "yes"]) + "\n")
    counts = f"{name}: has {len(given) + change} answers, .* {len(given)} questions"
    with pytest.raises(UserError, match=counts):
        score_answers(ScoreSettings(answers=path, questions=questions))


def test_questions_without_answers_are_refused(tiny_world: Path, tmp_path: Path) -> None:
    questions = tiny_world / "questions/CLEVR_test_questions.json"
    (tmp_path / "a.txt").write_text("yes\n" * len(read_questions(questions).questions))
    with pytest.raises(UserError, match="has no answers to compare with"):
        score_answers(ScoreSettings(answers=tmp_path / "a.txt", questions=questions))


def test_a_question_without_an_answer_is_named(
    questions: Path, given: list[str], tmp_path: Path
) -> None:
    content = json.loads(questions.read_bytes())
    del content["questions"][2]["answer"]
    (tmp_path / "q.json").write_text(json.dumps(content))
    (tmp_path / "a.txt").write_text("\n".join(given))
    with pytest.raises(UserError, match=r"q\.json: question 2: has no answer"):
        score_answers(ScoreSettings(answers=tmp_path / "a.txt", questions=tmp_path / "q.json"))


@pytest.mark.parametrize(
    "form",
    [
        str.upper, str.capitalize, "{}.".format, "  '{}' ".format, "“{}”".format, "**{}**".format,
        "The answer is {}.".format, "Answer: {}".format, "the answer is: {}".format, "A: {}".format,
        "it is {}".format, "a {}".format, lambda answer: NUMBERS.get(answer, answer).capitalize(),
    ],
)  # fmt: skip
def test_answers_in_another_form_are_right(
    questions: Path, tmp_path: Path, form: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    truths = [str(q.answer) for q in read_questions(questions).questions]
    (tmp_path / "a.txt").write_text("\n".join(map(form, truths)))
    report = score_answers(ScoreSettings(answers=tmp_path / "a.txt", questions=questions))
    assert report["overall"]["accuracy"] == 1
    assert report["no_answers"] == 0
    assert not capsys.readouterr().err


def test_lines_that_are_no_answers_are_counted(
    questions: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also where a right answer is within: nobody is to guess which of two was meant."""
    truths = [str(q.answer) for q in read_questions(questions).questions]
    given = ["yes or no", "not sure", "", *truths[3:]]
    (tmp_path / "a.txt").write_text("\n".join(given))
    report = score_answers(ScoreSettings(answers=tmp_path / "a.txt", questions=questions))
    assert report["no_answers"] == 3
    assert report["overall"]["correct"] == len(truths) - 3
    warning = capsys.readouterr().err
    assert f"a.txt: 3 of {len(truths)} lines are no answer" in warning
    assert "line 1: 'yes or no'" in warning


def test_a_file_of_hardly_any_answers_is_refused(questions: Path, tmp_path: Path) -> None:
    count = len(read_questions(questions).questions)
    (tmp_path / "a.txt").write_text("yes\n" + "I see three cubes\n" * (count - 1))
    with pytest.raises(UserError, match=rf"a\.txt: {count - 1} of {count} lines .*one answer"):
        score_answers(ScoreSettings(answers=tmp_path / "a.txt", questions=questions))


def test_a_report_is_not_written_over_its_inputs(questions: Path, tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("yes")
    with pytest.raises(UserError, match="would overwrite"):
        score_answers(
            ScoreSettings(
                answers=tmp_path / "a.txt", questions=questions, output=tmp_path / "a.txt"
            )
        )


def test_answers_about_sounds_are_scored_by_their_types(tmp_path: Path) -> None:
    """Of which CLEVR has none that asks for a position."""
    layout = make_set(tmp_path / "sounds")
    path = layout.question_json("train")
    truths = [str(q.answer) for q in read_questions(path).questions]
    (tmp_path / "answers.txt").write_text("\n".join(truths) + "\n")
    report = score_answers(
        ScoreSettings(answers=tmp_path / "answers.txt", questions=path, world="sound")
    )
    vocabulary = Vocabulary.load(layout.vocabulary)
    dataset = QuestionDataset.load(layout.question_h5("train"), vocabulary)
    expected = WordTask().report(dataset.answers, dataset.answers, dataset)
    assert report["by_type"] == expected["by_type"]
    assert set(report["by_type"]) == set(SOUND.question_types)
