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
from filmvqa.questions.preprocess import PreprocessedSplit, preprocess_questions
from filmvqa.questions.settings import EncodingSettings
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
COMPRESSED = gzip.compress(FRENCH.encode())


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
    assert ("numbered anew in each template file" in capsys.readouterr().err) == warns


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
