"""Importing a user's table and pictures into CLEVR's layout."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from filmvqa.features.images import list_images, load_image
from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.import_questions import import_questions
from filmvqa.questions.preprocess import preprocess_questions
from filmvqa.questions.question_table import MAX_TYPES, read_question_table
from filmvqa.questions.read_rows import read_rows
from filmvqa.questions.settings import DataSettings, EncodingSettings, ImportQuestionsSettings
from filmvqa.questions.vocabulary import Vocabulary, tokenize
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.tasks.words import WordTask
from filmvqa.worlds.engine.schema import Question, read_questions
from tests.conftest import examples

Record = dict[str, Any]
COLUMNS = {
    "picture": "file",
    "question": "text",
    "answer": "label",
    "type": "kind",
    "split": "part",
}


def row(file: str, text: str, label: Any, kind: str = "look", part: str = "train") -> Record:
    return {"file": file, "text": text, "label": label, "kind": kind, "part": part}


ROWS = [
    row("cat.png", "What is it?", "cat", "what"), row("cat.png", "Is it big,  or not?", False),
    row("sub/dog", "How many legs?", 4, "count"), row("sub/dog", "What is it?", "dog", "what"),
    row("cow.png", "How many legs?", 4, "count", "val"),
]  # fmt: skip


def paint(path: Path, size: tuple[int, int] = (40, 30), colour: int = 0, mode: str = "RGB") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (colour, 99, 99)).convert(mode).save(path)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number, name in enumerate(("cat.png", "sub/dog.png", "cow.png")):
        paint(tmp_path / name, colour=number)
    return tmp_path


def as_csv(delimiter: str) -> Callable[[list[Record]], str]:
    def text(rows: list[Record]) -> str:
        out = io.StringIO()
        writer = csv.DictWriter(out, rows[0], delimiter=delimiter)
        writer.writeheader()
        writer.writerows(
            {k: {False: "no", True: "yes"}[v] if isinstance(v, bool) else v for k, v in one.items()}
            for one in rows
        )
        return "\ufeff" + out.getvalue()

    return text


FORMS: dict[str, tuple[str, Callable[[list[Record]], str]]] = {
    "commas": ("csv", as_csv(",")),
    "semicolons": ("csv", as_csv(";")),
    "tabs": ("tsv", as_csv("\t")),
    "lines": ("jsonl", lambda rows: "\n".join(map(json.dumps, rows)) + "\n\n"),
    "list": ("json", json.dumps),
    "object": ("json", lambda rows: json.dumps({"version": 1, "items": rows})),
}


def write(folder: Path, rows: list[Record], form: str = "commas") -> Path:
    ending, text = FORMS[form]
    path = folder / f"mine.{ending}"
    path.write_text(text(rows))
    return path


def imported(
    source: Path, root: Path, image_size: tuple[int, int] = (24, 32), **options: Any
) -> list[str]:
    """Import a table, and return the descriptions of its splits."""
    data = DataSettings(name="own", root=root, image_size=image_size)
    options = {**COLUMNS, **options}
    return [
        split.describe()
        for split in import_questions(ImportQuestionsSettings(data=data, source=source, **options))
    ]


def questions(root: Path, split: str = "train") -> list[Question]:
    return read_questions(DatasetLayout.under(root).question_json(split)).questions


@pytest.mark.parametrize("form", FORMS)
def test_tables_of_any_format_give_the_same_set(folder: Path, form: str) -> None:
    splits = imported(write(folder, ROWS, form), folder / "own")
    assert splits == ["4 questions, 2 pictures, written", "1 questions, 1 pictures, written"]
    train = questions(folder / "own")
    assert [(q.image_filename, q.question, q.answer, q.question_type) for q in train] == [
        ("cat_000000.png", "What is it?", "cat", "what"),
        ("cat_000000.png", "Is it big, or not?", "no", "look"),
        ("dog_000001.png", "How many legs?", "4", "count"),
        ("dog_000001.png", "What is it?", "dog", "what"),
    ]
    assert all(q.program is None and q.split == "train" for q in train)
    images = list_images(folder / "own/images/train")
    assert {i: path.name for i, path in images.items()} == {
        q.image_index: q.image_filename for q in train
    }
    assert images[1].read_bytes() == (folder / "sub/dog.png").read_bytes()


def test_numbers_in_names_are_kept_if_they_have_no_gaps(folder: Path) -> None:
    for name in ("a/p_7.png", "a/q_8.png", "b/p_7.png"):
        paint(folder / name)
    rows = [row("a/q_8.png", "Is it?", "no"), row("a/p_7.png", "Is it?", "yes")]
    imported(write(folder, rows), folder / "kept")
    assert [(q.image_filename, q.image_index) for q in questions(folder / "kept")] == [
        ("q_8.png", 8), ("p_7.png", 7),
    ]  # fmt: skip
    rows.append(row("b/p_7.png", "Is it?", "no"))
    imported(write(folder, rows), folder / "numbered")
    names = [q.image_filename for q in questions(folder / "numbered")]
    assert names == ["q_8_000000.png", "p_7_000001.png", "p_7_000002.png"]


def test_pictures_of_several_sizes_and_formats_are_converted(folder: Path) -> None:
    paint(folder / "a.jpg", (64, 48))
    paint(folder / "b.gif", (32, 24), colour=200, mode="P")
    paint(folder / "c.png", (32, 24))
    paint(folder / "d.d.png", (32, 24), mode="L")
    rows = [row(name, "Is it?", "no") for name in ("a.jpg", "b.gif", "c.png", "d.d.png")]
    (split,) = imported(write(folder, rows), folder / "own")
    assert split == "4 questions, 4 pictures, 3 of them resized, as PNG, written"
    images = list(list_images(folder / "own/images/train").values())  # which refuses other sizes
    assert [path.name for path in images] == [
        "a_000000.png", "b_000001.png", "c_000002.png", "d_d_000003.png",
    ]  # fmt: skip
    pixel = load_image(images[1], (24, 32))[:, 5, 5].astype(int)
    assert np.abs(pixel - [200, 99, 99]).max() < 60  # within the accuracy of a GIF's palette


def test_a_complete_import_is_skipped_and_other_questions_are_refused(folder: Path) -> None:
    source = write(folder, ROWS)
    imported(source, folder / "own")
    files = [p for p in (folder / "own").rglob("*.*") if p.is_file()]
    before = {path: path.stat().st_mtime_ns for path in files}
    assert all(split.endswith("already complete") for split in imported(source, folder / "own"))
    assert all(
        path.stat().st_mtime_ns == time for path, time in before.items() if path.name[0] != "."
    )
    with pytest.raises(UserError, match=r"val_questions.json: exists with other questions"):
        imported(write(folder, [*ROWS[:4], {**ROWS[4], "label": 3}]), folder / "own")


def test_an_interrupted_import_is_resumed(folder: Path) -> None:
    source = write(folder, ROWS)
    imported(source, folder / "own")
    (folder / "own/questions/CLEVR_train_questions.json").unlink()
    (folder / "own/images/train/cat_000000.png").unlink()
    assert imported(source, folder / "own")[0] == "4 questions, 2 pictures, written"
    paint(folder / "own/images/train/cat_000000.png", colour=250)
    with pytest.raises(UserError, match=r"cat_000000.png: is another picture .* data.root"):
        imported(source, folder / "own")


@pytest.mark.parametrize(
    ("changes", "options", "message"),
    [
        ({"file": "ox.png"}, {}, r"line 6: is about ox.png, which is not in .*; add it"),
        ({"text": " ? "}, {}, "line 6: has no question"),
        ({"file": ""}, {}, "line 6: has no picture"),
        ({"file": "/"}, {}, "line 6: is about /, which is not in"),
        ({"kind": ""}, {}, "line 6: has no type, but others have one"),
        ({"kind": "a\x07"}, {}, "line 6: its type has control characters"),
        ({"part": "train", "label": ""}, {}, "line 6: has no answer, but others have one"),
        ({"part": "dev"}, {}, r"line 6: has the split 'dev', which is none of train, val, test"),
        ({"file": "cat.png", "text": "What  is it"}, {},
         "line 6: answers '4', and line 2 answers 'cat' to the same question about cat.png"),
        ({"file": "no.png"}, {}, r"no.png: cannot be read as an image"),
        ({}, {"answer": "answr"}, r"no column 'answr' among file, text, label, kind, part"),
        ({}, {"pictures": "sub"}, r"line 2: is about cat.png \(of 3 that are missing\), which is not in"),
    ],
)  # fmt: skip
def test_errors_are_reported_before_anything_is_written(
    folder: Path, changes: Record, options: Record, message: str
) -> None:
    (folder / "no.png").write_text("no picture")
    options = {k: folder / v if k == "pictures" else v for k, v in options.items()}
    with pytest.raises(UserError, match=message) as caught:
        imported(write(folder, [*ROWS[:4], {**ROWS[4], **changes}]), folder / "own", **options)
    assert len(str(caught.value).splitlines()) == 1
    assert not [p for p in (folder / "own").rglob("*") if p.name[0] != "."]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.csv", "file,text,label\nx,y\n", "line 2: has 2 columns, and the first line 3"),
        ("a.csv", "file,text,label,file\n", "several column 'file'"),
        ("a.csv", 'file,text,label\nx,"y\n', "line 2: unexpected end of data"),
        ("a.csv", "file,text,label\n", "has no rows"),
        ("a.jsonl", '{"file": 1}\n{\n', "line 2: "),
        ("a.jsonl", "[1]\n", "line 1: is not an object with keys"),
        (
            "a.json",
            '[{"file": "x", "text": ["y"]}]',
            "record 0: 'text' is neither text nor a number",
        ),
        ("a.json", '[{"file": "x", "text": "y"}]', "no record has the key 'label'"),
        ("a.json", '{"a": [], "b": []}', "is not a list of records"),
        ("a.json", "{", "a.json: "),
    ],
)
def test_tables_of_another_shape_are_refused(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=message):
        imported(tmp_path / name, tmp_path / "own", type=None, split=None)
    (tmp_path / name).write_bytes("file,text,label\nä".encode("latin-1"))
    with pytest.raises(UserError, match=r"UTF-8|JSON"):
        imported(tmp_path / name, tmp_path / "own", type=None, split=None)


def test_splits_come_from_the_table_or_from_options(folder: Path) -> None:
    rows = [{**one, "part": {"train": "training", "val": "dev"}[one["part"]]} for one in ROWS]
    imported(write(folder, rows), folder / "a", splits={"training": "train", "dev": "val"})
    assert [len(questions(folder / "a", split)) for split in ("train", "val")] == [4, 1]
    imported(write(folder, rows), folder / "b", split=None, into="test", answer=None, type=None)
    assert [q.answer for q in questions(folder / "b", "test")] == [None] * 5


_PICTURES = st.lists(
    st.lists(st.sampled_from("abcdef"), min_size=1, max_size=3), min_size=1, max_size=12
)


@examples(15)
@given(answers=_PICTURES, held_out=st.sampled_from([0.0, 0.3, 1.0]), data=st.data())
def test_training_keeps_every_answer_and_word_of_held_out_pictures(
    tmp_path_factory: pytest.TempPathFactory, answers: list[list[str]], held_out: float,
    data: st.DataObject,
) -> None:  # fmt: skip
    folder = tmp_path_factory.mktemp("held")
    rows = []
    for number, of_picture in enumerate(answers):
        paint(folder / f"{number}.png")
        word = data.draw(st.sampled_from(["one", "two", "three"]))
        rows += [row(str(number), f"{word} {i}?", a) for i, a in enumerate(of_picture)]
    imported(write(folder, rows), folder / "own", split=None, held_out=held_out)
    held = folder / "own/questions/CLEVR_val_questions.json"
    val = questions(folder / "own", "val") if held.exists() else []
    train = questions(folder / "own")
    assert len(train) + len(val) == len(rows)
    assert {q.answer for q in val} <= {q.answer for q in train}
    assert {w for q in val for w in tokenize(q.question)} <= {
        w for q in train for w in tokenize(q.question)
    }
    assert len({q.image_index for q in val}) <= round(held_out * len(answers))


def preprocessed(folder: Path, rows: list[Record], **options: Any) -> QuestionDataset:
    imported(write(folder, rows), folder / "own")
    layout = DatasetLayout.under(folder / "own")
    preprocess_questions(layout, EncodingSettings(**options))
    return QuestionDataset.load(layout.question_h5("train"), Vocabulary.load(layout.vocabulary))


def test_accuracy_is_reported_by_the_types_of_the_table(folder: Path) -> None:
    dataset = preprocessed(folder, ROWS)
    assert list(dataset.question_types) == ["count", "look", "what"]
    assert dataset.types is not None
    assert dataset.types.tolist() == [2, 1, 0, 2]
    assert dataset.program_lengths is None
    assert dataset.answers is not None
    predictions = dataset.answers.clone()
    predictions[3] = dataset.answers[0]  # the dog is a cat
    report = WordTask().report(predictions, dataset.answers, dataset)
    accuracies = {name: of_type["accuracy"] for name, of_type in report["by_type"].items()}
    assert accuracies == {"count": 1.0, "look": 1.0, "what": 0.5}
    assert set(report) == {"overall", "by_type"}
    assert "last function" not in WordTask().format_report(report)


def test_programs_take_precedence_over_types_in_questions(tmp_path: Path, tiny_world: Path) -> None:
    source = tiny_world / "questions/CLEVR_val_questions.json"
    content = json.loads(source.read_text())
    for question in content["questions"]:
        question["question_type"] = "mine"
    (tmp_path / source.name).write_text(json.dumps(content))
    table = read_question_table(tmp_path / source.name)
    assert table.own_types == ()
    assert table.types == read_question_table(source).types


def test_missing_and_bad_types_are_refused(tmp_path: Path) -> None:
    untyped = [
        {"image_filename": f"x_{i}.png", "question": "Is it?", "answer": "yes"} for i in range(3)
    ]
    layout = DatasetLayout.under(tmp_path)
    layout.questions.mkdir()

    def make(*types: Any, **options: str) -> QuestionDataset:
        typed = [
            {**question, **({} if t is None else {"question_type": t})}
            for question, t in zip(untyped, types, strict=True)
        ]
        layout.question_json("train").write_text(json.dumps({"questions": typed}))
        preprocess_questions(layout, EncodingSettings(**options))
        return QuestionDataset.load(layout.question_h5("train"), Vocabulary.load(layout.vocabulary))

    with pytest.raises(UserError, match="question 1: has no type, as 1 of 3"):
        make("b", None, 7)
    dataset = make("b", None, 7, incomplete="keep")
    assert dataset.types is not None
    assert (list(dataset.question_types), dataset.types.tolist()) == (["7", "b"], [1, -1, 0])
    untyped *= MAX_TYPES
    with pytest.raises(
        UserError, match=f"values of question_type, and at most {MAX_TYPES} are read"
    ):
        make(*range(len(untyped)))
    with pytest.raises(UserError, match=r"question_type 'a.x00'"):
        make(*["a\0"] * len(untyped))


@pytest.mark.parametrize("name", ["questions/mine.csv", "mine.jsonl"])
def test_a_table_in_place_of_questions_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "questions").mkdir()
    (tmp_path / name).touch()
    with pytest.raises(
        UserError, match=rf"{name}: is no question JSON.*import_questions.py source=\S*{name}"
    ):
        DatasetLayout.under(tmp_path).question_json_by_split()
    with pytest.raises(UserError, match=r"import_questions\.py source="):
        read_question_table(tmp_path / name)


def test_a_table_beside_question_json_gives_a_warning(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout = DatasetLayout.under(tmp_path)
    layout.questions.mkdir()
    for path in (
        layout.question_json("train"),
        layout.questions / "val.csv",
        tmp_path / "mine.csv",
    ):
        path.touch()
    assert set(layout.question_json_by_split()) == {"train"}
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: {layout.questions / 'val.csv'}: is no question JSON")


@examples(150)
@given(
    form=st.sampled_from(sorted(FORMS)), place=st.floats(0, 1), taken=st.integers(0, 3),
    put=st.binary(max_size=3) | st.sampled_from([b'"', b"\0", b"[", b"\\u0000", b"\x1f\x8b"]),
)  # fmt: skip
def test_a_damaged_table_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, form: str, place: float, taken: int, put: bytes
) -> None:
    path = write(tmp_path_factory.mktemp("damaged"), ROWS, form)
    content = path.read_bytes()
    at = int(place * len(content))
    path.write_bytes(content[:at] + put + content[at + taken :])
    with suppress(UserError):
        read_rows(path, list(COLUMNS.values()))
