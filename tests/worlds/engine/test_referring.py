"""Referring expressions: templates whose programs give objects."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from filmvqa.questions.vocabulary import tokenize
from filmvqa.system.errors import UserError
from filmvqa.worlds.clevr.scene_file import Scene
from filmvqa.worlds.clevr.scene_rules import SceneRules
from filmvqa.worlds.engine.families import REFERRING, Family, read_families
from filmvqa.worlds.engine.questions import ask_shard
from filmvqa.worlds.engine.schema import Question
from tests.worlds.clevr.layouts import sample_scenes
from tests.worlds.clevr.records import to_json
from tests.worlds.reference_engine import answer


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return sample_scenes(5, 80, SceneRules(max_objects=5))


@pytest.fixture(scope="module")
def families() -> list[Family]:
    return read_families(REFERRING)


@pytest.fixture(scope="module")
def expressions(scenes: list[Scene], families: list[Family]) -> list[Question]:
    return ask_shard(scenes, families, 20, "test")


def test_the_objects_agree_with_a_reference_engine(
    scenes: list[Scene], expressions: list[Question]
) -> None:
    by_image = {s.image_index: to_json(s) for s in scenes}
    for expression in expressions:
        assert expression.answer is None
        record = to_json(expression)
        is_object = record["program"][-1]["function"] == "unique"
        expected = expression.objects[0] if is_object else sorted(expression.objects)
        assert answer(record["program"], by_image[expression.image_index]) == str(expected)


def test_none_one_and_several_are_balanced(
    expressions: list[Question], families: list[Family]
) -> None:
    of_sets = {f.index for f in families if len(f.template.possible_answers()) == 3}
    counts = Counter(
        min(len(e.objects), 2) for e in expressions if e.question_family_index in of_sets
    )
    assert 2 < len(of_sets) < len(families)
    assert all(counts[n] > 0.15 * counts.total() for n in (0, 1, 2))
    assert counts[0] < 0.55 * counts.total()


def test_expressions_use_the_words_of_clevrs_questions(
    expressions: list[Question],
) -> None:
    known: set[str] = set()
    for family in read_families():
        for text in family.template.text:
            known |= set(re.findall(r"[a-z]+", re.sub(r"<\w+>", " ", text).lower()))
    words = {word for e in expressions for word in tokenize(e.question)}
    values = "small tiny large big gray red blue green brown purple cyan yellow rubber matte metal "
    values += "metallic shiny cube block sphere ball cylinder thing object left right behind front "
    values += "to side in of on an"
    values += " cubes blocks spheres balls cylinders things objects"
    assert words <= known | set(values.split())


def test_expressions_and_questions_are_in_separate_folders(tmp_path: Path) -> None:
    zero_hop = read_families(REFERRING, ["zero_hop"])[0].template
    record = {
        "params": [{"name": p.name, "type": p.type} for p in zero_hop.params],
        "text": zero_hop.text,
        "nodes": [{"type": n.type, "inputs": n.inputs, "side_inputs": n.side_inputs}
                  for n in zero_hop.nodes],
    }  # fmt: skip
    for name in ("questions", REFERRING):
        (tmp_path / name).mkdir()
        (tmp_path / name / "mine.json").write_text(json.dumps([record]))
    assert read_families(tmp_path / REFERRING)[0].template.refers()
    with pytest.raises(UserError, match="does not give an answer"):
        read_families(tmp_path / "questions")
    record["nodes"][-1]["type"] = "filter_count"
    (tmp_path / REFERRING / "mine.json").write_text(json.dumps([record]))
    with pytest.raises(UserError, match="does not give objects"):
        read_families(tmp_path / REFERRING)
