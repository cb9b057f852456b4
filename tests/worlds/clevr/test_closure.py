"""CLOSURE's seven tests: known words in combinations that CLEVR's questions do not have."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from filmvqa.questions.vocabulary import tokenize
from filmvqa.worlds.clevr.scene_file import Scene
from filmvqa.worlds.clevr.scene_rules import SceneRules
from filmvqa.worlds.clevr.scenes import sample_layout, to_scene
from filmvqa.worlds.engine.families import CLOSURE, Family, read_families
from filmvqa.worlds.engine.questions import ask_shard
from filmvqa.worlds.engine.schema import Question
from tests.worlds.clevr.records import to_json
from tests.worlds.reference_engine import answer

TESTS = {
    "and_mat_spa": 12, "compare_mat": 9, "compare_mat_spa": 9, "embed_mat_spa": 4,
    "embed_spa_mat": 4, "or_mat": 4, "or_mat_spa": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    rng, rules = np.random.default_rng(12), SceneRules()
    return [to_scene(sample_layout(rng, rules), rules, "val", i, 480, 320) for i in range(100)]


@pytest.fixture(scope="module")
def families() -> list[Family]:
    return read_families(CLOSURE)


@pytest.fixture(scope="module")
def questions(scenes: list[Scene], families: list[Family]) -> list[Question]:
    return ask_shard(scenes, families, 20, "test")


def test_answers_agree_with_a_reference_engine(
    scenes: list[Scene], questions: list[Question]
) -> None:
    by_image = {s.image_index: to_json(s) for s in scenes}
    for question in questions:
        record = to_json(question)
        assert answer(record["program"], by_image[question.image_index]) == record["answer"]


def test_each_family_is_asked_as_often(questions: list[Question], families: list[Family]) -> None:
    assert Counter(family.group for family in families) == TESTS
    counts = Counter(q.question_family_index for q in questions)
    assert len(counts) == len(families)
    assert max(counts.values()) <= 2 * min(counts.values())


def test_the_answers_of_each_test_are_balanced(
    questions: list[Question], families: list[Family]
) -> None:
    for test in TESTS:
        asked = {f.index for f in families if f.group == test}
        answers = Counter(q.answer for q in questions if q.question_family_index in asked)
        if set(answers) == {"yes", "no"}:
            assert answers["yes"] == pytest.approx(answers["no"], rel=0.25), test
        else:  # large numbers are rare, as in CLEVR
            assert len(answers) > 4, (test, answers)
            assert max(answers.values()) < 0.5 * answers.total(), (test, answers)


def test_no_words_are_new(questions: list[Question], scenes: list[Scene]) -> None:
    known = {
        w for q in ask_shard(scenes, read_families(), 20, "clevr") for w in tokenize(q.question)
    }
    assert {word for q in questions for word in tokenize(q.question)} <= known


def test_combinations_are_new(families: list[Family]) -> None:
    """Each asks what matches an object inside a program that CLEVR has only with relations."""

    def kinds(family: Family) -> list[str]:
        return [re.sub(r"^same_.*", "same", node.type) for node in family.template.nodes]

    clevrs = [kinds(family) for family in read_families()]
    assert all("same" in kinds(family) and kinds(family) not in clevrs for family in families)
