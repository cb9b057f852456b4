"""Preprocessing of incomplete questions, unknown tokens, existing files and family numbers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.preprocess import PreprocessedSplit, preprocess_questions
from filmvqa.questions.settings import EncodingSettings
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from tests.questions.test_preprocess import EXIST, ask, layout, refused, write
from tests.questions.test_question_forms import BOM, COUNT, RELEASE, Record, arrays, preprocess

# Incomplete questions


def without(key: str, *rows: int) -> list[Record]:
    questions = json.loads(json.dumps(RELEASE))
    for row in rows:
        del questions[row][key]
    return questions


@pytest.mark.parametrize(
    ("key", "what", "columns"),
    [
        ("answer", "answer", {"answers"}),
        ("program", "program", {"programs", "types"}),
        ("question_family_index", "family", {"question_families"}),
    ],
)
def test_an_incomplete_question_is_refused_or_kept(
    tmp_path: Path, key: str, what: str, columns: set[str]
) -> None:
    questions = without(key, 2, 3)
    refused(tmp_path, questions, rf"question 2: has no {what}, as 2 of 4 .*=keep")
    write(tmp_path / "q", "train", questions)
    [split] = preprocess_questions(layout(tmp_path), EncodingSettings(incomplete="keep"))
    assert split.lacking == {what: 2}
    kept = "left out" if what == "answer" else "kept"
    assert f"2 {kept}, which have no {what}" in split.describe()
    datasets = arrays(tmp_path / "h5/train_questions.h5")
    if what == "answer":
        assert datasets["orig_idxs"].tolist() == [0, 1]
        assert datasets["named_image_idxs"].tolist() == [0, 1]
        assert len(datasets["programs"]) == len(datasets["answers"]) == 2
    else:
        assert len(datasets["answers"]) == 4
        column = "types" if what == "program" else "question_families"
        assert (datasets[column] == -1).tolist() == [False, False, True, True]
    dataset = QuestionDataset.load(
        tmp_path / "h5/train_questions.h5", Vocabulary.load(tmp_path / "h5/vocab.json")
    )
    assert len(dataset) == split.num_questions
    # With the same option the file is complete; without it, the question is refused again.
    assert preprocess_questions(layout(tmp_path), EncodingSettings(incomplete="keep")) == [
        PreprocessedSplit("train", split.num_questions, was_there=True, lacking={what: 2})
    ]
    with pytest.raises(UserError, match="question 2"):
        preprocess_questions(layout(tmp_path))
    # A whole split may lack it.
    write(tmp_path / "q", "train", without(key, 0, 1, 2, 3))
    assert not preprocess(tmp_path).keys() & columns


@pytest.mark.parametrize("empty", [None, ""])
def test_an_empty_answer_is_missing(tmp_path: Path, empty: object) -> None:
    questions = json.loads(json.dumps(RELEASE))
    questions[1]["answer"] = empty
    refused(tmp_path, questions, "question 1: has no answer, as 1 of 4")


def test_missing_images_are_refused_or_left_out(tmp_path: Path) -> None:
    write(tmp_path / "q", "train", RELEASE)
    images = tmp_path / "images/train"
    images.mkdir(parents=True)
    (images / "CLEVR_x_000001.png").touch()
    with pytest.raises(UserError, match=r"question 0: is about CLEVR_x_000000\.png.*=leave_out$"):
        preprocess_questions(layout(tmp_path))
    [split] = preprocess_questions(layout(tmp_path), missing_images="leave_out")
    assert (split.num_questions, split.lacking) == (2, {"image": 2})
    assert arrays(tmp_path / "h5/train_questions.h5")["image_idxs"].tolist() == [1, 1]
    [split] = preprocess_questions(layout(tmp_path), missing_images="leave_out")
    assert split.was_there
    (images / "CLEVR_x_000002.JPG").touch()  # another image was added
    [split] = preprocess_questions(layout(tmp_path), missing_images="leave_out")
    assert (split.num_questions, split.was_there) == (3, False)
    (images / "CLEVR_x_000000.png").touch()
    [split] = preprocess_questions(layout(tmp_path))
    assert (split.num_questions, split.was_there, split.lacking) == (4, False, {})


def test_a_folder_without_any_of_the_images_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "q", "train", RELEASE)
    (tmp_path / "images/train").mkdir(parents=True)
    with pytest.raises(UserError, match="none of the images of its 4 questions"):
        preprocess_questions(layout(tmp_path), missing_images="leave_out")


# Unknown tokens


@pytest.mark.parametrize(
    ("val", "options", "advised"),
    [
        (ask("a x?"), {}, {"allow_unknown"}),
        (ask("a x?"), {"vocab": True}, {"allow_unknown", "extend_vocab"}),
        (ask("a x?"), {"vocab": True, "extend_vocab": True}, {"allow_unknown"}),
        (ask("a?", answer="no"), {"allow_unknown": True}, set()),
        (ask("a?", answer="no"), {"allow_unknown": True, "vocab": True}, {"extend_vocab"}),
        (ask("a?", program=COUNT), {"allow_unknown": True}, set()),
        (ask("a?", program=COUNT), {"vocab": True, "extend_vocab": True}, set()),
    ],
)  # fmt: skip
def test_only_options_that_help_are_advised(
    tmp_path: Path, val: Record, options: dict[str, Any], advised: set[str]
) -> None:
    write(tmp_path / "q", "train", [ask("a?", program=EXIST)])
    preprocess_questions(layout(tmp_path))
    write(tmp_path / "q", "val", [ask("a?", program=EXIST), {"program": EXIST} | val])
    options = dict(options)
    if options.pop("vocab", False):
        shutil.copy(tmp_path / "h5/vocab.json", tmp_path / "vocab.json")
        options["vocab"] = tmp_path / "vocab.json"
    with pytest.raises(UserError, match="question 1") as caught:
        preprocess_questions(layout(tmp_path), EncodingSettings(**options))
    message = str(caught.value)
    assert {n for n in ("allow_unknown", "extend_vocab") if f"{n}=true" in message} == advised


# Existing files


@pytest.mark.parametrize("split", ["train", "val"])
def test_nothing_is_written_if_a_file_of_another_program_is_in_the_way(
    tmp_path: Path, split: str
) -> None:
    for name in ("train", "val"):
        write(tmp_path / "q", name, RELEASE)
    (tmp_path / "h5").mkdir()
    path = tmp_path / f"h5/{split}_questions.h5"
    with h5py.File(path, "w") as file:
        file["questions"] = np.zeros((1, 2), np.int32)
    content = path.read_bytes()
    with pytest.raises(UserError, match=rf"{split}_questions\.h5: was not made by this program"):
        preprocess_questions(layout(tmp_path))
    assert path.read_bytes() == content
    assert not (tmp_path / "h5/vocab.json").exists()


def test_an_unreadable_file_is_not_replaced(tmp_path: Path) -> None:
    write(tmp_path / "q", "train", RELEASE)
    preprocess_questions(layout(tmp_path))
    path = tmp_path / "h5/train_questions.h5"
    path.unlink()
    path.symlink_to("/proc/self/mem")  # reading it fails like a broken disk
    for work in (
        lambda: preprocess_questions(layout(tmp_path)),
        lambda: QuestionDataset.load(path, Vocabulary.load(tmp_path / "h5/vocab.json")),
    ):
        with pytest.raises(UserError, match="cannot be accessed now: Input/output error") as caught:
            work()
        assert "delete" not in str(caught.value)
    assert path.is_symlink()


@pytest.mark.parametrize("name", ["q/CLEVR_train_questions.json", "h5/vocab.json"])
def test_an_unreadable_json_file_is_reported(tmp_path: Path, name: str) -> None:
    write(tmp_path / "q", "train", RELEASE)
    preprocess_questions(layout(tmp_path))
    (tmp_path / name).unlink()
    (tmp_path / name).symlink_to("/proc/self/mem")
    with pytest.raises(UserError, match=rf"{name}: Input/output error; check its disk"):
        preprocess_questions(layout(tmp_path))


def test_a_vocabulary_with_a_byte_order_mark(tmp_path: Path) -> None:
    write(tmp_path / "q", "train", RELEASE)
    preprocess_questions(layout(tmp_path))
    path = tmp_path / "h5/vocab.json"
    vocabulary = Vocabulary.load(path)
    path.write_bytes(BOM + path.read_bytes())
    assert Vocabulary.load(path) == vocabulary


def test_a_damaged_file_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "q", "train", RELEASE)
    preprocess_questions(layout(tmp_path))
    path = tmp_path / "h5/train_questions.h5"
    content = path.read_bytes()
    path.write_bytes(content[:-100])
    assert not preprocess_questions(layout(tmp_path))[0].was_there
    assert path.read_bytes() == content
    assert "train_questions.h5: is damaged" in capsys.readouterr().err


# Family numbers that start again in each template file


@pytest.mark.parametrize(
    ("files", "families", "expected", "warns"),
    [
        # In the release, zero_hop starts at 84, compare_integer at 0, and one_hop at 72.
        (["zero_hop.json", "one_hop.json", "compare_integer.json", "zero_hop.json"],
         [1, 0, 8, 5], [85, 72, 8, 89], False),
        (["zero_hop.json"] * 4, [3, 4, 85, 6], [3, 4, 85, 6], False),  # they do not start again
        (["own.json", "other.json", "own.json", "own.json"], [0, 0, 1, 2], [0, 0, 1, 2], True),
    ],
)  # fmt: skip
def test_families_of_clevrs_generator_get_the_releases_numbers(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    files: list[str],
    families: list[int],
    expected: list[int],
    warns: bool,
) -> None:
    questions = [
        {**question, "template_filename": file, "question_family_index": family}
        for question, file, family in zip(RELEASE, files, families, strict=True)
    ]
    write(tmp_path / "q", "train", questions)
    arrays = preprocess(tmp_path)
    assert arrays["question_families"].tolist() == expected
    # Families identify the world's own files, which are therefore no groups.
    assert ("groups" in arrays) == ("own.json" in files)
    assert ("start again in each template file" in capsys.readouterr().err) == warns


def test_a_set_generated_by_an_earlier_version_is_refused(tmp_path: Path) -> None:
    """Its families have other numbers."""
    write(tmp_path / "q", "train", RELEASE)
    recorded = layout(tmp_path).generator_settings
    recorded.write_text(json.dumps({"seed": 0}))
    with pytest.raises(UserError, match="generated by an earlier version"):
        preprocess(tmp_path)
    recorded.write_text(json.dumps({"seed": 0, "families_sha256": "0"}))
    preprocess(tmp_path)


def test_families_in_a_file_of_an_earlier_version_are_ignored(tmp_path: Path) -> None:
    write(tmp_path / "q", "train", RELEASE)
    preprocess(tmp_path)
    path = tmp_path / "h5/train_questions.h5"
    vocabulary = Vocabulary.load(tmp_path / "h5/vocab.json")
    assert QuestionDataset.load(path, vocabulary).families is not None
    with h5py.File(path, "r+") as file:
        file.attrs["format"] = "filmvqa-questions-2"
    assert QuestionDataset.load(path, vocabulary).families is None
    preprocess(tmp_path)  # which replaces the file
    assert QuestionDataset.load(path, vocabulary).families is not None
