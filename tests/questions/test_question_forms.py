"""Question files in the formats of other projects, and inconsistent files."""

from __future__ import annotations

import codecs
import gzip
import json
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.preprocess import preprocess_questions
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.worlds.engine.schema import read_questions
from tests.questions.test_preprocess import EXIST, ask, layout, refused, write

COUNT = [*EXIST[:2], {"function": "count", "inputs": [1], "value_inputs": []}]
LESS = [
    *COUNT, {"function": "scene", "inputs": [], "value_inputs": []},
    {"function": "count", "inputs": [3], "value_inputs": []},
    {"function": "less_than", "inputs": [2, 4], "value_inputs": []},
]  # fmt: skip
QUERY = [
    *EXIST[:2], {"function": "unique", "inputs": [1], "value_inputs": []},
    {"function": "query_size", "inputs": [2], "value_inputs": []},
]  # fmt: skip
RELEASE = [
    ask("Is it?", 0, "yes", program=EXIST, question_family_index=3),
    ask("How many are there?", 1, "2", program=COUNT, question_family_index=4),
    ask("Are there fewer red things than things?", 1, "no", program=LESS, question_family_index=5),
    ask("How big is the red thing?", 2, "small", program=QUERY, question_family_index=6),
]
Record = dict[str, Any]


def arrays(path: Path) -> dict[str, np.ndarray]:
    with h5py.File(path) as file:
        return {name: file[name][:] for name in file} | {"type_names": file.attrs["type_names"]}


def preprocess(folder: Path) -> dict[str, np.ndarray]:
    """Preprocess the set in a folder, and return the arrays of train."""
    preprocess_questions(layout(folder))
    return arrays(folder / "h5/train_questions.h5")


def assert_equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


def booleans(question: Record) -> None:
    if question["answer"] in ("yes", "no"):
        question["answer"] = question["answer"] == "yes"


def numbers(question: Record, number: Callable[[str], float] = int) -> None:
    if str(question["answer"]).isdigit():
        question["answer"] = number(question["answer"])


def types_for_functions(question: Record) -> None:
    for step in question["program"]:
        step["type"] = step.pop("function")


def side_inputs(question: Record) -> None:
    for step in question["program"]:
        step["side_inputs"] = step.pop("value_inputs")


def nonempty_side_inputs(question: Record) -> None:
    for step in question["program"]:
        if values := step.pop("value_inputs"):
            step["side_inputs"] = values


def types_and_side_inputs(question: Record) -> None:
    types_for_functions(question)
    nonempty_side_inputs(question)


def both_names(question: Record) -> None:
    for step in question["program"]:
        step |= {"type": step["function"], "side_inputs": step["value_inputs"]}


def more_keys(question: Record) -> None:
    question |= {"image": question["image_filename"][:-4], "template_filename": "a.json"}
    for step in question["program"]:
        step["_output"] = [0, 1]


def answer_first(question: Record) -> None:
    end = len(question["program"]) - 1
    question["program"] = [
        step | {"inputs": [end - i for i in step["inputs"]]} for step in question["program"][::-1]
    ]


#: Equivalent formats: a file may combine one of each group.
CHANGES: list[list[Callable[[Record], None]]] = [
    [booleans],
    [numbers, partial(numbers, number=float)],
    [types_for_functions, side_inputs, nonempty_side_inputs, types_and_side_inputs, both_names],
    [more_keys],
    [answer_first],
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@example((booleans, numbers, types_and_side_inputs, more_keys, None))  # CLEVR's own generator
@given(changes=st.tuples(*(st.sampled_from([None, *group]) for group in CHANGES)))
def test_equivalent_formats_give_equal_files(
    tmp_path: Path, changes: tuple[Callable[[Record], None] | None, ...]
) -> None:
    content = json.loads(json.dumps(RELEASE))
    for question in content:
        for change in filter(None, changes):
            change(question)
    for name in ("release", "changed"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
    write(tmp_path / "release/q", "train", RELEASE)
    path = write(tmp_path / "changed/q", "train", content)
    changed = preprocess(tmp_path / "changed")
    assert set(changed.pop("groups", [])) == ({0} if more_keys in changes else set())
    assert_equal(preprocess(tmp_path / "release"), changed)
    questions = read_questions(path).questions
    assert [q.answer for q in questions] == [q["answer"] for q in RELEASE]
    values = {str(step.value_inputs) for q in questions for step in q.program or []}
    assert values == {"[]", "['red']"}


BOM = codecs.BOM_UTF8


@pytest.mark.parametrize(
    ("ending", "encode"),
    [
        ("", lambda content: BOM + content),
        (".gz", gzip.compress),
        (".gz", lambda content: gzip.compress(BOM + content)),
        ("", gzip.compress),
    ],
)
def test_byte_order_marks_and_compressed_files_are_read(
    tmp_path: Path, ending: str, encode: Callable[[bytes], bytes]
) -> None:
    content = write(tmp_path / "plain/q", "train", RELEASE).read_bytes()
    (tmp_path / "saved/q").mkdir(parents=True)
    (tmp_path / f"saved/q/CLEVR_train_questions.json{ending}").write_bytes(encode(content))
    assert_equal(preprocess(tmp_path / "plain"), preprocess(tmp_path / "saved"))


FRENCH = json.dumps({"questions": [ask("Où est-ce?")]}, ensure_ascii=False)
COMPRESSED = gzip.compress(FRENCH.encode(), mtime=0)  # the workers of a run collect the same bytes


@pytest.mark.parametrize(
    ("content", "message"),
    [
        *((FRENCH.encode(encoding), ".*save it as UTF-8")
          for encoding in ("utf-16", "utf-16-le", "utf-16-be", "utf-32", "latin-1")),
        *((COMPRESSED[:end], ": is a damaged gzip file") for end in (3, 30, -4)),
    ],
)  # fmt: skip
def test_other_encodings_and_damaged_gzip_files_are_refused(
    tmp_path: Path, content: bytes, message: str
) -> None:
    write(tmp_path / "q", "train", []).write_bytes(content)
    with pytest.raises(UserError, match=rf"train_questions\.json{message}"):
        preprocess_questions(layout(tmp_path))


def test_functions_of_clevr_math(tmp_path: Path) -> None:
    """Answers are numbers, and programs have functions that CLEVR does not have."""
    subtraction = [
        {"type": "scene", "inputs": [], "_output": [0], "value_inputs": []},
        {"type": "filter_color", "inputs": [0], "value_inputs": ["red"]},
        {"type": "choose", "inputs": [1], "value_inputs": ["1"]},
        {"type": "count", "inputs": [0], "value_inputs": []},
        {"type": "subtraction", "inputs": [3, 2], "value_inputs": []},
    ]
    questions = [
        ask("Subtract 1 red cubes. How many objects are left?", 0, program=subtraction),
        ask("How many are there?", 0, program=COUNT),
    ]
    for question in questions:
        question |= {"answer": 3, "template_filename": "subtraction.json"}
    folder = tmp_path / "q"
    write(folder, "train", questions).rename(folder / "clevr-math-train.json")
    preprocess_questions(layout(tmp_path))
    vocabulary = Vocabulary.load(tmp_path / "h5/vocab.json")
    assert vocabulary.answers() == ["3"]
    assert "choose[1]" in vocabulary.program
    dataset = QuestionDataset.load(tmp_path / "h5/train_questions.h5", vocabulary)
    assert dataset.types is not None
    assert dataset.types.tolist() == [-1, 0]


def test_a_question_of_super_clevr(tmp_path: Path) -> None:
    """It has no program, a boolean answer, and images numbered from 25,000."""
    question = {
        "split": "new", "image_filename": "superCLEVR_new_025000.png", "image_index": 25000,
        "image": "superCLEVR_new_025000", "question": "Are there fewer buss than big objects?",
        "answer": True, "template_filename": "compare_integer.json", "question_family_index": 1,
        "question_index": 4,
    }  # fmt: skip
    write(tmp_path / "q", "train", [question]).rename(tmp_path / "q/superCLEVR_questions_30k.json")
    preprocess_questions(layout(tmp_path))
    datasets = arrays(tmp_path / "h5/train_questions.h5")
    assert (datasets["image_idxs"], datasets["named_image_idxs"]) == ([25000], [25000])
    assert "programs" not in datasets
    assert Vocabulary.load(tmp_path / "h5/vocab.json").answers() == ["yes"]


@pytest.mark.parametrize("name", ["a_000005.jpg", "a_000005.PNG", "a_5.jpeg", "a.000005.png"])
def test_the_index_in_an_images_name(tmp_path: Path, name: str) -> None:
    write(tmp_path / "q", "train", [{"image_filename": name, "question": "a?"}])
    assert preprocess(tmp_path)["image_idxs"] == [5]


# Inconsistent files


def named(name: str, index: int | None) -> Record:
    question = ask("a b?", index or 0) | {"image_filename": name}
    if index is None:
        del question["image_index"]
    return question


@pytest.mark.parametrize(
    ("questions", "message"),
    [
        ([named("a_1.png", 1), named("a_2.png", 1)], "question 1: .* 1, .*a_2.png says 2"),
        ([named("a.png", 1), named("b.png", 2), named("c.png", 1)],
         "question 2: has image_index 1 for c.png, question 0 has it for a.png"),
        ([named("a.png", 1), named("b.png", 0), named("a.png", 2)],
         "question 2: has image_index 2 for a.png, question 0 has 1"),
        ([named("a_1.png", 1), named("a_01.png", 1)],
         "question 1: has image_index 1 for a_01.png, question 0 has it for a_1.png"),
        ([named("a_1.png", None), named("a_1.jpg", None)], "question 1: .*a_1.jpg.*a_1.png"),
        ([named("a_7.png", None), named("a_7.png", 6)], "question 1: has image_index 6"),
        ([named("a.png", 2**31 - 1)], "question 0: has image_index"),
        ([named("a_99999999999.png", None)], "question 0: has image_index"),
    ],
)  # fmt: skip
def test_contradicting_names_and_indices_of_images_are_refused(
    tmp_path: Path, questions: list[Record], message: str
) -> None:
    refused(tmp_path, questions, message)


@pytest.mark.parametrize(
    ("step", "message"),
    [
        ({"type": "count"}, "function 'exist', type 'count'"),
        ({"value_inputs": ["a"], "side_inputs": ["b"]}, r"value_inputs \['a'\], side_inputs"),
        ({"function": None}, "no function"),
    ],
)
def test_a_step_that_contradicts_itself_is_refused(
    tmp_path: Path, step: Record, message: str
) -> None:
    program = [*EXIST[:2], EXIST[2] | step]
    path = write(tmp_path / "q", "train", [ask("a?", program=EXIST), ask("a?", program=program)])
    with pytest.raises(UserError, match=f"question 1: .*{message}"):
        preprocess_questions(layout(tmp_path))
    with pytest.raises(UserError, match=f"question 1: .*{message}"):
        read_questions(path)


# Files of splits


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("questions/CLEVR_train_questions.json", "CLEVR-Humans-train.json"),
        ("questions/CLEVR_train_questions.json", "questions/CLEVR_train_questions.json.gz"),
        ("questions/clevr-math-val.json", "questions/CLEVR_val_questions.json"),
        ("CLEVR-Humans-train.json", "CLEVR_train_questions.json"),
    ],
)
def test_two_files_of_one_split_are_refused(tmp_path: Path, one: str, other: str) -> None:
    for name in (one, other):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    with pytest.raises(UserError) as caught:
        DatasetLayout.under(tmp_path).question_json_by_split()
    assert all(str(tmp_path / name) in str(caught.value) for name in (one, other))


@pytest.mark.parametrize(
    ("by_split", "other", "warning"),
    [
        ({"train": "CLEVR-Humans-train.json", "val": "questions/CLEVR_val_questions.json.gz"},
         "questions/._CLEVR_train_questions.json", ""),
        ({"train": "questions/CLEVR_questions.json", "val": "questions/CLEVR_val_questions.json"},
         "notes.txt", "CLEVR_questions.json: names no split and is read as 'train'"),
        ({"train": "questions/CLEVR_train_questions.json"}, "questions/CLEVR_questions.json",
         "CLEVR_questions.json: names no split and is ignored"),
    ],
)  # fmt: skip
def test_files_by_split(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], by_split: dict[str, str], other: str,
    warning: str,
) -> None:  # fmt: skip
    layout = DatasetLayout.under(tmp_path)
    layout.questions.mkdir()
    for name in (*by_split.values(), other):
        (tmp_path / name).touch()
    paths = layout.question_json_by_split()
    assert paths == {split: tmp_path / name for split, name in by_split.items()}
    assert warning in capsys.readouterr().err


def test_two_names_without_a_split_are_refused(tmp_path: Path) -> None:
    layout = DatasetLayout.under(tmp_path, questions=tmp_path)
    for name in ("CLEVR_questions.json", "superCLEVR_questions_5.json"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"CLEVR_questions.json: names no split, as superCLEVR_q"):
        layout.question_json_by_split()
