"""CLOSURE's seven tests: known words in combinations that CLEVR's questions lack."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from filmvqa.questions.vocabulary import tokenize
from filmvqa.worlds.clevr.scene_file import Scene
from filmvqa.worlds.engine.families import CLOSURE, Family, read_families
from filmvqa.worlds.engine.questions import ask_shard
from filmvqa.worlds.engine.schema import Question
from tests.worlds.clevr.layouts import sample_scenes
from tests.worlds.reference_engine import check_answers

TESTS = {
    "and_mat_spa": 12, "compare_mat": 9, "compare_mat_spa": 9, "embed_mat_spa": 4,
    "embed_spa_mat": 4, "or_mat": 4, "or_mat_spa": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return sample_scenes(12, 100)


@pytest.fixture(scope="module")
def families() -> list[Family]:
    return read_families(CLOSURE)


@pytest.fixture(scope="module")
def questions(scenes: list[Scene], families: list[Family]) -> list[Question]:
    return ask_shard(scenes, families, 20, "test")


def test_answers_agree_with_a_reference_engine(
    scenes: list[Scene], questions: list[Question]
) -> None:
    check_answers(questions, scenes)


def test_families_are_asked_equally_often(
    questions: list[Question], families: list[Family]
) -> None:
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
    """Each has a ``same`` function in a program that in CLEVR has only relations."""

    def node_types(family: Family) -> list[str]:
        return [re.sub(r"^same_.*", "same", node.type) for node in family.template.nodes]

    clevrs = [node_types(family) for family in read_families()]
    for family in families:
        assert "same" in node_types(family) and node_types(family) not in clevrs
