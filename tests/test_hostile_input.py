"""Broken and hostile files: each is refused by a ``UserError``, which scripts print on one line, and
is left unchanged. docs/reliability.md lists them."""

from __future__ import annotations

import json
import re
import shutil
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from filmvqa.backbones.build import build_backbone
from filmvqa.backbones.extraction import Extraction
from filmvqa.checkpoints.checkpoint import load_checkpoint, model_from_checkpoint
from filmvqa.features.store import open_feature_store
from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.preprocess import preprocess_questions
from filmvqa.questions.settings import EncodingSettings
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.uses.correction.hint_questions import is_complete
from filmvqa.worlds.clevr.generate import MAKER
from filmvqa.worlds.clevr.scene_file import read_scenes
from filmvqa.worlds.engine.families import read_families
from filmvqa.worlds.engine.generate import GeneratedSet
from filmvqa.worlds.engine.questions import ask_shard
from filmvqa.worlds.engine.schema import encode_json, read_questions
from filmvqa.worlds.engine.set_settings import record_settings
from tests.conftest import REPOSITORY, TINY, examples
from tests.training.tiny_runs import same, train

#: The record of a set of hints.
HINTS = {"checkpoint_sha256": "0" * 64, "splits": ["train", "val"], "hints": 5, "seed": 0}


def refused(work: Callable[[], Any], path: Path, match: str | None = None) -> str:
    """The message of the ``UserError`` that names ``path``, which is left unchanged."""
    before = path.read_bytes()
    with pytest.raises(UserError, match=match) as caught:
        work()
    assert path.name in str(caught.value)
    assert path.read_bytes() == before
    return str(caught.value)


class Originals(dict[str, tuple[bytes, Callable[[Path], Any]]]):
    def __repr__(self) -> str:  # for a failing test's report
        return "originals"


@pytest.fixture(scope="module")
def originals(
    tiny_world: Path, tiny_set: Path, tmp_path_factory: pytest.TempPathFactory
) -> Originals:
    """The content of each kind of file, and its reader."""
    vocabulary = Vocabulary.load(tiny_set / "vocab.json")
    run = tmp_path_factory.mktemp("run")
    train(run, tiny_set, max_steps=2)
    templates = REPOSITORY / "src/filmvqa/worlds/clevr/templates"
    scenes = read_scenes(tiny_world / "scenes/CLEVR_val_scenes.json").scenes

    def ask(path: Path) -> None:
        """Ask questions of the templates in a file."""
        (folder := path.with_suffix("")).mkdir(exist_ok=True)
        shutil.copy(path, folder)
        ask_shard(scenes[:3], read_families(folder), 10, "")

    def ask_of(path: Path) -> None:
        """Ask questions about the scenes in a file of an interrupted generation."""
        place = DatasetLayout.under(path.parent).partial_json("val", "scenes", 0)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, place)
        GeneratedSet(MAKER, DatasetLayout.under(path.parent), TINY).ask_shard("val", 0)

    def features(path: Path) -> None:
        store = open_feature_store(path)
        store.read(torch.arange(store.num_images))

    return Originals({
        "CLEVR_val_questions.json": (
            (tiny_world / "questions/CLEVR_val_questions.json").read_bytes(), read_questions,
        ),
        "CLEVR_val_scenes.json": (
            (tiny_world / "scenes/CLEVR_val_scenes.json").read_bytes(), read_scenes,
        ),
        "vocab.json": ((tiny_set / "vocab.json").read_bytes(), Vocabulary.load),
        **{
            name: ((templates / name).read_bytes(), ask)
            for name in ("zero_hop.json", "comparison.json")
        },
        "generation.json": (
            (tiny_world / "generation.json").read_bytes(),
            lambda path: record_settings(
                DatasetLayout.under(path.parent), TINY, read_families(selection=TINY.families)
            ),
        ),
        "hints.json": (
            encode_json(HINTS), lambda path: is_complete(DatasetLayout.under(path.parent), HINTS),
        ),
        "scenes_000000.json": (encode_json(scenes), ask_of),
        "val_questions.h5": (
            (tiny_set / "val_questions.h5").read_bytes(),
            lambda path: QuestionDataset.load(path, vocabulary),
        ),
        "val_features_clevr_cnn.h5": (
            (tiny_set / "val_features_clevr_cnn.h5").read_bytes(), features,
        ),
        "best.pt": (
            (run / "best.pt").read_bytes(),
            lambda path: model_from_checkpoint(load_checkpoint(path), path),
        ),
    })  # fmt: skip


JSON_KINDS = (
    "CLEVR_val_questions.json", "CLEVR_val_scenes.json", "vocab.json", "zero_hop.json",
    "comparison.json", "generation.json", "scenes_000000.json", "hints.json",
)  # fmt: skip
KINDS = (*JSON_KINDS, "val_questions.h5", "val_features_clevr_cnn.h5", "best.pt")


@pytest.mark.parametrize("kind", KINDS)
@examples(40)
@given(share=st.floats(0, 0.999))
def test_cut_at_any_place(kind: str, originals: Any, tmp_path: Path, share: float) -> None:
    content, read = originals[kind]
    path = tmp_path / kind
    content = content.rstrip()  # a JSON file does not need its last line break
    path.write_bytes(content[: int(share * len(content))])
    refused(lambda: read(path), path)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - set(JSON_KINDS)))
@examples(40)
@given(share=st.floats(0, 0.999), bit=st.integers(0, 7))
def test_a_flipped_bit_is_refused_or_without_effect(
    kind: str, originals: Any, tmp_path: Path, share: float, bit: int
) -> None:
    content, read = originals[kind]
    path, whole = tmp_path / kind, tmp_path / "whole" / kind
    whole.parent.mkdir(exist_ok=True)
    whole.write_bytes(content)
    flipped = bytearray(content)
    flipped[int(share * len(content))] ^= 1 << bit
    path.write_bytes(flipped)
    try:
        content = read(path)
    except UserError as error:
        assert kind in str(error)
        return
    if kind.endswith("questions.h5"):
        original = read(whole)
        assert torch.equal(content.questions, original.questions)
        assert torch.equal(content.answers, original.answers)
    if kind == "best.pt" and not same(content[0].state_dict(), read(whole)[0].state_dict()):
        pytest.fail("a checkpoint with other weights was read")


@pytest.mark.parametrize("kind", JSON_KINDS)
def test_invalid_utf8_is_refused(kind: str, originals: Any, tmp_path: Path) -> None:
    content, read = originals[kind]
    path = tmp_path / kind
    path.write_bytes(content.replace(b"e", b"\xff"))
    refused(lambda: read(path), path)


@pytest.mark.parametrize("kind", JSON_KINDS)
@examples(100)
@given(choices=st.data())
def test_json_of_another_shape(
    kind: str, originals: Any, tmp_path: Path, choices: st.DataObject
) -> None:
    """One place of the file has another value, is deleted, or gets another key: the file is read, or
    refused by its name, and never another error raised."""
    content, read = originals[kind]
    changed = json.loads(content)
    change(changed, choices)
    path = tmp_path / kind
    path.write_text(json.dumps(changed))
    try:
        read(path)
    except UserError as error:
        assert kind in str(error) or "other settings" in str(error)


def change(node: Any, choices: st.DataObject) -> None:
    """Change one place in decoded JSON, at a random depth."""
    while True:
        keys = list(node) if isinstance(node, dict) else range(len(node))
        if not keys:
            return
        key = choices.draw(st.sampled_from(keys))
        inner = node[key]
        if not isinstance(inner, dict | list) or choices.draw(st.integers(0, 5)) == 0:
            break
        node = inner
    kind = choices.draw(st.sampled_from(["value", "deleted", "more"]))
    if kind == "deleted":
        del node[key]
    elif kind == "value":
        node[key] = choices.draw(JSON | st.integers() | st.just(10**400))
    elif isinstance(node, dict):
        node[choices.draw(st.text(max_size=5))] = choices.draw(JSON)
    else:
        node.append(choices.draw(JSON))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)  # fmt: skip


@examples(40)
@given(
    key=st.sampled_from(["image_filename", "question", "image_index", "answer", "program"]),
    value=JSON,
)
def test_questions_of_wrong_types_and_sizes(
    originals: Any, tmp_path: Path, key: str, value: Any
) -> None:
    """They are read, or refused with their place, and never another error raised."""
    content = json.loads(originals["CLEVR_val_questions.json"][0])
    content["questions"][2][key] = value
    folder = tmp_path / "questions"
    folder.mkdir(exist_ok=True)
    path = folder / "CLEVR_train_questions.json"
    path.write_text(json.dumps(content))
    shutil.rmtree(tmp_path / "h5", ignore_errors=True)
    try:
        preprocess_questions(DatasetLayout.under(tmp_path))
    except UserError as error:
        # Infinity and NaN are no JSON, for which only the byte's position is known.
        place = str(error).removeprefix(f"{path}: ")
        assert re.search(r"\b2\b|\(byte \d+\)", place), error
        assert not (tmp_path / "h5/train_questions.h5").exists()


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda v: v["answer_token_to_idx"].update({"yes": 99}), "indices of answer"),
        (lambda v: v["question_token_to_idx"].update({"a": 5, "b": 5}), "indices of question"),
        (lambda v: v["program_token_to_idx"].pop("<NULL>"), "program"),
        (lambda v: v.pop("answer_token_to_idx"), "answer_token_to_idx"),
        (lambda v: v["answer_token_to_idx"].update({"yes": 10**30}), "answer"),
    ],
)
def test_vocabularies_with_gaps_and_duplicates(
    originals: Any, tmp_path: Path, change: Callable[[dict], Any], match: str
) -> None:
    content = json.loads(originals["vocab.json"][0])
    change(content)
    path = tmp_path / "vocab.json"
    path.write_text(json.dumps(content))
    refused(lambda: Vocabulary.load(path), path, match)


def png(path: Path, mode: str = "RGB", size: tuple[int, int] = (16, 16)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size).save(path, format="PNG")


@pytest.mark.parametrize(
    ("harm", "match"),
    [
        (lambda p: png(p, "L"), "not an image of 8 bits RGB or RGBA"),
        (lambda p: png(p, "P"), "not an image of 8 bits RGB or RGBA"),
        (lambda p: png(p, "I;16"), "not an image of 8 bits RGB or RGBA"),
        (lambda p: png(p, "RGB", (16, 17)), "has 16×17 pixels, CLEVR_val_000000.png 16×16"),
        (lambda p: p.write_text("no image at all"), "not a PNG"),
        (lambda p: p.write_bytes(p.read_bytes()[:-9]), "truncated PNG"),
        (lambda p: bomb(p), "exceeds limit .*; resize it"),
    ],
)
def test_images_of_another_kind(tmp_path: Path, harm: Callable[[Path], Any], match: str) -> None:
    for i in range(3):
        png(tmp_path / f"i/CLEVR_val_{i:06d}.png")
    path = tmp_path / "i/CLEVR_val_000001.png"
    harm(path)
    work = lambda: Extraction(  # noqa: E731
        tmp_path / "i", tmp_path / "f.h5", "val", build_backbone("pixels"), (16, 16)
    )
    refused(work, path, match)
    assert not (tmp_path / "f.h5").exists()


def bomb(path: Path) -> None:
    """Write a header that announces 10 gigapixels."""
    content = bytearray(path.read_bytes())
    content[16:24] = (100_000).to_bytes(4, "big") * 2
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    path.write_bytes(content)


FEATURES, QUESTIONS = "val_features_clevr_cnn.h5", "val_questions.h5"


@pytest.mark.parametrize(
    ("kind", "harm", "match"),
    [
        (FEATURES, lambda f: f["features"].__setitem__((3, 0, 0, 0), np.nan),
         "image 3 are damaged"),
        (FEATURES, lambda f: f.attrs.__delitem__("weights_sha256"),
         "lacks the attribute 'weights_sha256'"),
        (FEATURES, lambda f: f.attrs.__delitem__("num_done"), "lacks the attribute 'num_done'"),
        (FEATURES, lambda f: f.__delitem__("row_crc32"), "no dataset 'row_crc32'"),
        (FEATURES, lambda f: f.__delitem__("features"), "no dataset 'features'"),
        (QUESTIONS, lambda f: f["answers"].__setitem__(1, 10**6), "damaged"),
        (QUESTIONS, lambda f: (f.attrs.__delitem__("sha256"), f["answers"].__setitem__(1, 10**6)),
         "'answers' of question 1 is out of range"),
        (QUESTIONS, lambda f: (f.attrs.__delitem__("sha256"), f["image_idxs"].__setitem__(1, -4)),
         "'image_idxs' of question 1 is out of range"),
        (QUESTIONS,
         lambda f: (f.__delitem__("answers"), f.__setitem__("answers", np.zeros(3, np.int32))),
         "'answers' is int32"),
        (QUESTIONS, lambda f: (f.__delitem__("answers"), f.__setitem__("answers", np.zeros(200))),
         "'answers' is float64"),
        (QUESTIONS, lambda f: (f.attrs.__delitem__("sha256"), f["questions"].__setitem__(2, 0)),
         "question 2 has no words"),
        (QUESTIONS, lambda f: f.__delitem__("questions"), "no dataset 'questions'"),
    ],
)  # fmt: skip
def test_hdf5_files_that_are_changed(
    originals: Any, tmp_path: Path, kind: str, harm: Callable[[h5py.File], Any], match: str
) -> None:
    content, read = originals[kind]
    path = tmp_path / kind
    path.write_bytes(content)
    with h5py.File(path, "r+") as file:
        harm(file)
    refused(lambda: read(path), path, match)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
@pytest.mark.parametrize("placement", ["memory", "stream"])
def test_features_that_are_not_finite(
    tmp_path: Path, value: float, dtype: type, placement: str
) -> None:
    values = np.zeros((5, 2, 3, 3), dtype)
    values[2, 1, 1, 1] = value
    path = tmp_path / "film.h5"
    with h5py.File(path, "w") as file:
        file["features"] = values

    def work() -> None:
        open_feature_store(path, placement=placement).read(torch.arange(5))

    refused(work, path, "image 2 are not finite")


def test_a_vocabulary_is_not_written_over_itself(tiny_world: Path, tmp_path: Path) -> None:
    layout = DatasetLayout.under(tmp_path, questions=tiny_world / "questions")
    preprocess_questions(layout)
    path = layout.vocabulary
    work = lambda: preprocess_questions(layout, EncodingSettings(vocab=path, extend_vocab=True))  # noqa: E731
    refused(work, path, "would overwrite the input")


def test_keys_that_nobody_knows_are_ignored(tiny_world: Path, tmp_path: Path) -> None:
    for name, key in (("questions", "questions"), ("scenes", "scenes")):
        content = json.loads((tiny_world / f"{name}/CLEVR_val_{name}.json").read_text())
        for each in (content, content["info"], content[key][0]):
            each["more"] = {"than": ["CLEVR", 2]}
        (tmp_path / f"CLEVR_val_{name}.json").write_text(json.dumps(content))
    for read in (read_questions, read_scenes):
        name = f"CLEVR_val_{read.__name__.removeprefix('read_')}.json"
        folder = tiny_world / name.split("_")[-1].removesuffix(".json")
        assert read(tmp_path / name) == read(folder / name)


def test_features_are_not_written_into_the_images(tmp_path: Path) -> None:
    png(tmp_path / "i/CLEVR_val_000000.png")
    with pytest.raises(UserError, match="would overwrite the input"):
        Extraction(tmp_path / "i", tmp_path / "i/f.h5", "val", build_backbone("pixels"), (16, 16))
