from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from filmvqa.system.errors import UserError
from filmvqa.worlds.clevr.generate import generate
from filmvqa.worlds.clevr.generator_settings import GeneratorSettings
from filmvqa.worlds.clevr.scene_file import Scene
from filmvqa.worlds.engine.ask_scenes import AskScenesSettings, ask_scenes
from filmvqa.worlds.engine.families import read_families
from filmvqa.worlds.engine.questions import ask_shard
from filmvqa.worlds.engine.schema import Question
from filmvqa.worlds.engine.world import read_world
from tests.worlds.clevr.layouts import sample_scenes
from tests.worlds.reference_engine import check_answers
from tests.worlds.sound.small_sets import sounds_of


@pytest.fixture(scope="module")
def scenes() -> list[Scene]:
    return sample_scenes(7, 200)


@pytest.fixture(scope="module")
def questions(scenes: list[Scene]) -> list[Question]:
    return ask_shard(scenes, read_families(), 8, "test", short_share=0.5)


def short(questions: list[Question]) -> list[Question]:
    return [q for k, q in enumerate(questions) if k % 8 >= 4]


def test_the_other_questions_do_not_change(scenes: list[Scene], questions: list[Question]) -> None:
    others = [q for k, q in enumerate(questions) if k % 8 < 4]
    assert others == ask_shard(scenes, read_families(), 4, "test")


def test_short_questions_ask_for_numbers_and_compare_two(questions: list[Question]) -> None:
    families = Counter(q.question_family_index for q in short(questions))
    assert set(families) == {0, 1, 2, 84}
    assert 0.44 < families[84] / families.total() < 0.56
    texts = Counter(q.question for q in short(questions))
    assert texts["How many things are there?"] > 5
    one_word = r"Are there more (\w+) (objects|things) than (?!\1)\w+ \2\?"
    assert any(re.fullmatch(one_word, text) for text in texts)
    assert not any("things than things" in text for text in texts)


@settings(max_examples=20, deadline=None)
@given(seed=st.text(max_size=5), number=st.integers(1, 6))
def test_answers_agree_with_a_reference_engine(scenes: list[Scene], seed: str, number: int) -> None:
    for scene in scenes[:10]:
        questions = ask_shard([scene], read_families(), number, seed, short_share=1.0)
        assert len({q.question for q in questions}) == len(questions) == number
        check_answers(questions, [scene])


def test_numbers_are_those_of_the_scenes(scenes: list[Scene], questions: list[Question]) -> None:
    """Questions about things count all objects; large numbers are not rare."""
    numbers = [q for q in short(questions) if q.question_family_index == 84]
    by_image = {scene.image_index: len(scene.objects) for scene in scenes}
    for question in numbers:
        if len(question.program or []) == 2:
            assert question.answer == str(by_image[question.image_index])
    assert sum(int(q.answer or 0) > 5 for q in numbers) > 0.12 * len(numbers)
    balanced = ask_shard(scenes, read_families(), 20, "test")
    counts = [q for q in balanced if (q.program or [])[-1].function == "count"]
    assert sum(int(q.answer or 0) > 5 for q in counts) < 0.04 * len(counts)


def test_families_without_comparisons_only_count(scenes: list[Scene]) -> None:
    only_counts = ask_shard(
        scenes[:20], read_families(selection=["zero_hop"]), 8, "test", short_share=1.0
    )
    assert {q.question_family_index for q in only_counts} == {84}


def test_sounds_are_counted_too() -> None:
    world = read_world("sound")
    sounds = [sounds_of(i) for i in range(10)]
    questions = ask_shard(sounds, read_families(world=world), 6, "test", world, short_share=1.0)
    assert len(questions) == 60
    check_answers(questions, sounds)


def test_only_the_named_split_has_them(tmp_path: Path) -> None:
    for name, short_questions in (("with", {"train": 0.5}), ("without", None)):
        images = {"train": 12, "val": 12}
        made = GeneratorSettings(images, 16, 16, 1, 0, 6, short_questions)
        generate(tmp_path / name, made, workers=1)
    read = {
        (name, split): (tmp_path / name / f"questions/CLEVR_{split}_questions.json").read_bytes()
        for name in ("with", "without")
        for split in ("train", "val")
    }
    assert read["with", "val"] == read["without", "val"]
    families = [q["question_family_index"] for q in json.loads(read["with", "train"])["questions"]]
    assert all(set(families[k + 3 : k + 6]) <= {0, 1, 2, 84} for k in range(0, len(families), 6))
    scenes, output = tmp_path / "with/scenes/CLEVR_train_scenes.json", tmp_path / "again.json"
    ask_scenes(
        AskScenesSettings(scenes=str(scenes), output=str(output), questions_per_image=6,
                          short_questions=0.5)
    )  # fmt: skip
    assert output.read_bytes() == read["with", "train"]


@pytest.mark.parametrize(
    ("short_questions", "families", "named"),
    [
        ({"validation": 0.5}, None, r"'validation' is not among the splits of images, \['train'\]"),
        ({"train": 0.2}, ["three_hop"], "none of the question families counts"),
    ],
)
def test_invalid_shares_are_refused_before_the_folder_is_made(
    tmp_path: Path, short_questions: dict[str, float], families: list[str | int] | None, named: str
) -> None:
    invalid = GeneratorSettings({"train": 1}, 16, 16, 1, 0, 6, short_questions, families)
    with pytest.raises(UserError, match=named):
        generate(tmp_path / "set", invalid, workers=1)
    assert not (tmp_path / "set").exists()
