from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from filmvqa.questions.dataset import NAME_DATASETS
from filmvqa.questions.preprocess import preprocess_questions
from filmvqa.questions.settings import EncodingSettings
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.worlds.engine.programs import ANSWER_FUNCTIONS
from filmvqa.worlds.engine.schema import read_questions


def write(folder: Path, split: str, questions: list[dict]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"CLEVR_{split}_questions.json"
    path.write_text(json.dumps({"info": {"split": split}, "questions": questions}))
    return path


def layout(folder: Path, questions: str = "q", h5: str = "h5") -> DatasetLayout:
    return DatasetLayout.under(folder, questions=folder / questions, h5=folder / h5)


def ask(text: str, image: int = 0, answer: str | None = "yes", **more: object) -> dict:
    record = {"image_filename": f"CLEVR_x_{image:06d}.png", "image_index": image, "question": text}
    return record | ({} if answer is None else {"answer": answer}) | more


def refused(folder: Path, questions: list[dict], match: str, **options: Any) -> None:
    """Check that questions of train are refused, and that nothing is written."""
    path = write(folder / "q", "train", questions)
    with pytest.raises(UserError, match=match) as caught:
        preprocess_questions(layout(folder), **options)
    assert str(path) in str(caught.value)
    assert not (folder / "h5").exists()


EXIST = [
    {"function": "scene", "inputs": [], "value_inputs": []},
    {"function": "filter_color", "inputs": [0], "value_inputs": ["red"]},
    {"function": "exist", "inputs": [1], "value_inputs": []},
]


def test_the_files_of_a_generated_set(tiny_world: Path, tiny_set: Path) -> None:
    vocabulary = Vocabulary.load(tiny_set / "vocab.json")
    words = {i: w for w, i in vocabulary.question.items()}
    steps = {i: w for w, i in vocabulary.program.items()}
    source = read_questions(tiny_world / "questions/CLEVR_train_questions.json").questions
    with h5py.File(tiny_set / "train_questions.h5") as file:
        arrays = {name: file[name][:] for name in file}
        attributes = dict(file.attrs)
    assert arrays.pop("named_image_idxs").tolist() == list(range(60))
    names = [f"CLEVR_train_{i:06d}.png" for i in range(60)]
    assert arrays.pop("image_name_crc32").tolist() == [zlib.crc32(n.encode()) for n in names]
    assert set(arrays) == {
        "questions", "image_idxs", "orig_idxs", "answers", "question_families", "types", "programs",
    }  # fmt: skip
    assert all(array.dtype == np.int32 for array in arrays.values())
    assert attributes["vocab_sha256"] == vocabulary.sha256()
    assert list(attributes["type_names"]) == list(ANSWER_FUNCTIONS)
    assert attributes["split"] == "train"
    assert len(source) == len(arrays["questions"])
    for i in range(0, len(source), 7):
        tokens = [words[t] for t in arrays["questions"][i] if t]
        text = source[i].question.removesuffix("?").replace(";", " ;")
        assert tokens == ["<START>", *text.split(" "), "<END>"]
        program = [steps[t] for t in arrays["programs"][i] if t]
        assert program[1] == source[i].program[-1].function == ANSWER_FUNCTIONS[arrays["types"][i]]
        assert len(program) == 2 + len(_tree(source[i].program, len(source[i].program) - 1))
        assert vocabulary.answers()[arrays["answers"][i]] == source[i].answer
        assert arrays["question_families"][i] == source[i].question_family_index
        assert arrays["image_idxs"][i] == source[i].image_index
        assert arrays["orig_idxs"][i] == i


def _tree(program: list, root: int) -> list[int]:
    return [root, *(j for i in program[root].inputs for j in _tree(program, i))]


def test_a_split_without_answers_lacks_those_datasets(tiny_set: Path) -> None:
    with h5py.File(tiny_set / "test_questions.h5") as file:
        assert set(file) == {"questions", "image_idxs", "orig_idxs", *NAME_DATASETS}


def test_the_vocabulary_comes_from_train_alone(tmp_path: Path) -> None:
    train = [ask("is it red?"), ask("is it blue?", answer="no")]
    write(tmp_path / "q", "train", train)
    for val, message in (
        ([ask("is it green?")], "question 0: 'green'.*allow_unk"),
        ([*train, ask("is it red?", answer="perhaps")], "question 2: the answer 'perhaps'"),
    ):
        write(tmp_path / "q", "val", val)
        with pytest.raises(UserError, match=rf"CLEVR_val_questions\.json: {message}"):
            preprocess_questions(layout(tmp_path))
        assert not (tmp_path / "h5/val_questions.h5").exists()
    write(tmp_path / "q", "val", [ask("is it green?")])
    preprocess_questions(layout(tmp_path), EncodingSettings(allow_unknown=True))
    with h5py.File(tmp_path / "h5/val_questions.h5") as file:
        assert file["questions"][0].tolist()[3] == 3  # <UNK>


def test_an_existing_vocabulary_is_used_and_extended(tmp_path: Path) -> None:
    write(tmp_path / "clevr", "train", [ask("is it red?"), ask("is it blue?", answer="no")])
    preprocess_questions(layout(tmp_path, "clevr"))
    vocab = tmp_path / "h5/vocab.json"
    humans = layout(tmp_path, "humans", "out")
    humans.questions.mkdir()
    (tmp_path / "humans/CLEVR-Humans-train.json").write_text(
        json.dumps({"questions": [ask("is it shiny?"), ask("is that shiny?")]})
    )
    with pytest.raises(UserError, match="shiny"):
        preprocess_questions(humans, EncodingSettings(vocab=vocab))
    options = {"vocab": vocab, "extend_vocab": True, "min_count": 2, "allow_unknown": True}
    preprocess_questions(humans, EncodingSettings(**options))
    old, new = Vocabulary.load(vocab), Vocabulary.load(tmp_path / "out/vocab.json")
    assert new.question == {**old.question, "shiny": len(old.question)}
    with h5py.File(tmp_path / "out/train_questions.h5") as file:
        assert set(file) == {"questions", "image_idxs", "orig_idxs", "answers", *NAME_DATASETS}
        assert file["questions"][1].tolist()[2] == 3  # "that" is too rare


def test_complete_files_are_kept_until_their_input_changes(tmp_path: Path) -> None:
    write(tmp_path / "q", "train", [ask("a b?")])
    first = preprocess_questions(layout(tmp_path))
    stamp = (tmp_path / "h5/train_questions.h5").stat().st_mtime_ns
    second = preprocess_questions(layout(tmp_path))
    assert [d.was_there for d in (*first, *second)] == [False, True]
    assert (tmp_path / "h5/train_questions.h5").stat().st_mtime_ns == stamp
    write(tmp_path / "q", "train", [ask("a b c?")])
    assert not preprocess_questions(layout(tmp_path))[0].was_there


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"questions": [{"image_filename": "a_0.png", "question": "a?"', "truncated"),
        ('{"questions": [{"image_filename": "a_0.png", "question": 3}]}', r"\$\.questions\[0\]\.question"),
        ('{"questions": [{"question": "a?"}]}', "image_filename"),
        ('{"question": []}', "questions"),
        ('{"questions": []}', "no questions"),
        ('{"questions": [{"image_filename": "a.png", "question": "a?"}]}', "no image_index"),
        ('{"questions": [{"image_filename": "a_0.png", "question": "a?", "image_index": -4}]}', "-4"),
    ],
)  # fmt: skip
def test_malformed_json_is_refused_with_its_place(
    tmp_path: Path, content: str, message: str
) -> None:
    path = write(tmp_path / "q", "train", [])
    path.write_text(content)
    with pytest.raises(UserError, match=message) as caught:
        preprocess_questions(layout(tmp_path))
    assert str(path) in str(caught.value)
    assert not (tmp_path / "h5").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"inputs": [7]}, r"has the inputs \[7\]"),
        ({"inputs": [2]}, r"has the inputs \[2\]"),
        ({"function": "paint"}, "ends in 'paint'"),
    ],
)
def test_bad_programs_are_refused(tmp_path: Path, change: dict, message: str) -> None:
    program = [*EXIST[:2], EXIST[2] | change]
    questions = [ask("a?", program=EXIST), ask("a?", program=program)]
    refused(tmp_path, questions, f"question 1: .*{message}")


def test_missing_questions_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"download_clevr\.py.*generate_clevr\.py"):
        layout(tmp_path, "nothing").question_json_by_split()
    write(tmp_path / "q", "val", [ask("a?")])
    with pytest.raises(UserError, match="no train questions"):
        preprocess_questions(layout(tmp_path))
