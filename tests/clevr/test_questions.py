from __future__ import annotations

import json
import random
from collections import Counter, defaultdict

import msgspec
import numpy as np
import pytest

from filmvqa.clevr.families import read_families
from filmvqa.clevr.questions import (
    IMAGES_PER_SHARD,
    QuestionGenerator,
    ask_shard,
)
from filmvqa.clevr.scenes import SceneRules, sample_layout, to_scene
from filmvqa.clevr.schema import Question, Scene, decode_json, encode_json
from filmvqa.data.vocabulary import tokenize
from tests.clevr.reference_engine import answer
from tests.clevr.test_families import OFFICIAL


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    rng, rules = np.random.default_rng(11), SceneRules()
    return [
        to_scene(sample_layout(rng, rules), rules, "train", i, 480, 320)
        for i in range(IMAGES_PER_SHARD)
    ]


@pytest.fixture(scope="module")
def questions(scenes: list[Scene]) -> list[Question]:
    return ask_shard(scenes, read_families(), 10, "test")


def plain(record: object) -> dict:
    return json.loads(encode_json(record))


def test_an_independent_engine_finds_every_answer(
    scenes: list[Scene], questions: list[Question]
) -> None:
    by_image = {s.image_index: plain(s) for s in scenes}
    assert len(questions) == 10 * len(scenes)
    for question in questions:
        record = plain(question)
        assert answer(record["program"], by_image[question.image_index]) == record["answer"]


def test_all_families_are_asked_equally(questions: list[Question]) -> None:
    counts = Counter(q.question_family_index for q in questions)
    assert len(counts) == 90
    assert max(counts.values()) - min(counts.values()) <= 3


def test_answers_are_balanced_in_each_family(questions: list[Question]) -> None:
    families = {f.index: f.template for f in read_families()}
    counts: dict[int, Counter] = defaultdict(Counter)
    for q in questions:
        # Replay of the rule on the counts so far.
        table = {
            a: counts[q.question_family_index][a]
            for a in families[q.question_family_index].possible_answers
        }
        ranked = sorted(table.values())
        assert table[q.answer] <= 1.1 * ranked[-2]
        assert table[q.answer] <= 5 * max(ranked[len(ranked) // 2], 5)
        counts[q.question_family_index][q.answer] += 1


def test_no_question_twice_on_an_image(questions: list[Question]) -> None:
    seen = Counter((q.image_index, q.question) for q in questions)
    assert max(seen.values()) == 1


def test_relations_do_work(scenes: list[Scene], questions: list[Question]) -> None:
    """Without one of its relations a question has another answer or none, or, for ``exist`` and
    comparisons, which may turn out the same, at least asks about other objects."""
    by_image = {s.image_index: plain(s) for s in scenes}
    checked = 0
    for question in questions:
        record, scene = plain(question), by_image[question.image_index]
        program = record["program"]
        for i, step in enumerate(program):
            if step["function"] != "relate":
                continue
            without = [dict(s) for s in program]
            without[i] = {"function": "scene", "inputs": [], "value_inputs": []}
            last = program[-1]["function"]
            if last.startswith(("query", "count")) and question.question_family_index not in UNIONS:
                assert answer(without, scene) != record["answer"], record
            else:
                # The set behind this relation, counted with and without it.
                end = _end_of_filters(program, i)
                counted = [{"function": "count", "inputs": [end], "value_inputs": []}]
                with_it = answer(program[: end + 1] + counted, scene)
                assert answer(without[: end + 1] + counted, scene) != with_it, record
            checked += 1
    assert checked > 1000


#: Unions of related sets: one relation may add only what the other side has already.
UNIONS = {f.index for f in read_families() if any(n.type == "union" for n in f.template.nodes)}


def _end_of_filters(program: list[dict], start: int) -> int:
    end = start
    while end + 1 < len(program) and program[end + 1]["function"].startswith("filter"):
        end += 1
    return end


def test_only_clevrs_words(shared, questions: list[Question]) -> None:
    vocabulary = json.loads((shared / "reference" / "clevr_vocab.json").read_text())
    words = {word for q in questions for word in tokenize(q.question)}
    assert words <= set(vocabulary["question_token_to_idx"])
    assert {q.answer for q in questions} <= set(vocabulary["answer_token_to_idx"])


def test_questions_read_as_english(questions: list[Question]) -> None:
    for q in questions:
        assert q.question.endswith("?")
        assert q.question[0].isupper()
        assert not any(mark in q.question for mark in "<>[]")
        assert "  " not in q.question
        assert " a object" not in q.question


def test_same_seed_same_questions_other_seed_others(scenes: list[Scene]) -> None:
    families = read_families()
    first = ask_shard(scenes[:20], families, 10, "a")
    assert encode_json(first) == encode_json(ask_shard(scenes[:20], families, 10, "a"))
    assert encode_json(first) != encode_json(ask_shard(scenes[:20], families, 10, "b"))


def test_templates_of_the_official_format_work(tmp_path, scenes: list[Scene]) -> None:
    (tmp_path / "official.json").write_text(json.dumps(OFFICIAL))
    families = read_families(tmp_path)
    found = ask_shard(scenes[:60], families, 10, "x")
    assert len(found) > 40
    for q in found:
        assert any(w in q.question for w in ("how many", "How many"))
        sizes = [s.value_inputs[0] for s in q.program[4:] if s.function == "filter_size"]
        relate = next(i for i, s in enumerate(q.program) if s.function == "relate")
        assert not [s for s in q.program[relate:] if s.function == "filter_size"], sizes
        assert answer(plain(q)["program"], plain(scenes[q.image_index])) == q.answer
    starts = Counter(q.question.startswith("There is a") for q in found)
    assert len(starts) == 2  # the optional part is there and is not


def test_a_plain_relate_whose_relation_adds_nothing_is_rejected(scenes: list[Scene]) -> None:
    families = read_families(selection=["single_and"])
    generator = QuestionGenerator(families, random.Random(0))
    for scene in scenes[:40]:
        for q in generator.ask(scene, 5):
            program = plain(q)["program"]
            for i, step in enumerate(program):
                if step["function"] == "relate":
                    without = [*program]
                    without[i] = {"function": "scene", "inputs": [], "value_inputs": []}
                    assert answer(without, plain(scene)) != q.answer


def test_records_survive_json(scenes: list[Scene], questions: list[Question]) -> None:
    for record in (scenes[0], questions[0]):
        assert decode_json(encode_json(record), type(record), "x", "") == record
    assert "3d_coords" in plain(scenes[0])["objects"][0]
    assert set(plain(questions[0])) == {
        "image_filename", "question", "image_index", "split", "question_family_index", "answer",
        "program",
    }  # fmt: skip
    assert msgspec.json.decode(encode_json(questions[0]))["program"][0] == {
        "function": "scene", "inputs": [], "value_inputs": [],
    }  # fmt: skip
