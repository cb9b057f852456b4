from __future__ import annotations

import json
from collections import Counter
from itertools import pairwise

import pytest

from filmvqa.system.errors import UserError
from filmvqa.worlds.engine.families import Family
from filmvqa.worlds.engine.programs import NotUniqueError, SceneIndex
from filmvqa.worlds.engine.questions import ask_shard
from filmvqa.worlds.engine.schema import Question, encode_json
from filmvqa.worlds.sound.generate import MAKER
from filmvqa.worlds.sound.scenes import SOUND, SoundScene, sample_scene, scene_generator
from filmvqa.worlds.sound.settings import SoundRules, SoundSettings
from tests.worlds.reference_engine import answer_about_sounds
from tests.worlds.sound.small_sets import SETTINGS


@pytest.fixture(scope="module")
def families() -> list[Family]:
    return MAKER.read_families(SETTINGS)


@pytest.fixture(scope="module")
def scenes() -> list[SoundScene]:
    return [
        sample_scene(SETTINGS, "train", i, scene_generator(SETTINGS, "train", i))
        for i in range(120)
    ]


@pytest.fixture(scope="module")
def questions(scenes: list[SoundScene], families: list[Family]) -> list[Question]:
    return ask_shard(scenes, families, 24, "test", SOUND)


def test_answers_agree_with_a_second_engine(
    scenes: list[SoundScene], questions: list[Question]
) -> None:
    sounds = {s.image_index: json.loads(encode_json(s))["objects"] for s in scenes}
    assert len(questions) == 24 * len(scenes)
    for question in questions:
        record = json.loads(encode_json(question))
        assert (
            answer_about_sounds(record["program"], sounds[question.image_index]) == record["answer"]
        )


def test_families_are_those_of_the_metadata_and_asked_equally(
    families: list[Family], questions: list[Question]
) -> None:
    assert Counter(f.group for f in families) == SOUND.family_groups
    assert [f.group for f in families] == sorted(
        (f.group for f in families), key=list(SOUND.family_groups).index
    )
    counts = Counter(q.question_family_index for q in questions)
    assert set(counts) == {f.index for f in families}
    assert max(counts.values()) - min(counts.values()) <= 0.2 * max(counts.values())


def test_questions_are_in_words(questions: list[Question]) -> None:
    for question in questions:
        assert not set("<>[]") & set(question.question), question.question
        assert "  " not in question.question and question.question.endswith("?")
    assert len({q.question for q in questions}) > 0.8 * len(questions)


def test_every_function_of_the_metadata_is_used(questions: list[Question]) -> None:
    used = {step.function for q in questions for step in q.program or []}
    assert used >= set(SOUND.answer_functions) | {"first", "last", "relate", "filter_position"}


def test_first_and_last_take_two_at_least(scenes: list[SoundScene]) -> None:
    index = SceneIndex(scenes[0], SOUND)
    count = len(scenes[0].objects)
    assert index.apply("first", [index.all_objects], None) == 0
    assert index.apply("last", [index.all_objects], None) == count - 1
    for alone in (0, 1, 4):
        with pytest.raises(NotUniqueError):
            index.apply("first", [alone], None)


def test_a_scene_depends_on_nothing_but_its_index() -> None:
    def scene(index: int) -> bytes:
        rng = scene_generator(SETTINGS, "val", index)
        return encode_json(sample_scene(SETTINGS, "val", index, rng))

    assert scene(3) == scene(3) != scene(4)


def test_sounds_of_a_scene_do_not_overlap(scenes: list[SoundScene]) -> None:
    for scene in scenes:
        assert 8 <= len(scene.objects) <= 10
        for sound, following in zip(scene.objects, scene.objects[1:], strict=False):
            assert following.onset - (sound.onset + sound.duration) > 0.029
        last = scene.objects[-1]
        assert last.onset + last.duration <= scene.seconds


def test_sounds_begin_on_a_beat_or_when_the_one_before_is_over() -> None:
    for beat in (0.6, None):
        rules = SoundRules(beat=beat)
        settings = SoundSettings({"val": 1}, rules=rules)
        for index in range(20):
            rng = scene_generator(settings, "val", index)
            sounds = sample_scene(settings, "val", index, rng).objects
            first = sounds[0].onset
            for k, (sound, following) in enumerate(pairwise(sounds), 1):
                if beat is None:
                    silence = following.onset - sound.onset - sound.duration
                    assert rules.gap[0] - 1e-4 < silence < rules.gap[1] + 1e-4
                else:
                    # Of both the time within the turn is drawn.
                    spread = rules.gap[1] - rules.gap[0]
                    assert abs(following.onset - first - k * beat) < spread + 1e-4


def test_turns_have_room_for_their_sounds() -> None:
    with pytest.raises(UserError, match=r"data.sound.rules.beat=0.5: turns take up to 0.59 s"):
        SoundRules(beat=0.5)
    with pytest.raises(UserError, match=r"data.sound.rules.seconds=6.0: scenes take up to 6.2"):
        SoundRules(seconds=6.0)
