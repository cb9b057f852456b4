from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest

from filmvqa.system.errors import UserError
from filmvqa.worlds.engine.families import Family
from filmvqa.worlds.engine.programs import NotUniqueError, SceneIndex
from filmvqa.worlds.engine.questions import ask_shard
from filmvqa.worlds.engine.schema import Question
from filmvqa.worlds.sound.generate import MAKER
from filmvqa.worlds.sound.scenes import SOUND, SoundScene
from filmvqa.worlds.sound.settings import SoundRules, SoundSettings
from tests.worlds.reference_engine import check_answers
from tests.worlds.sound.small_sets import SETTINGS, sounds_of


@pytest.fixture(scope="module")
def families() -> list[Family]:
    return MAKER.read_families(SETTINGS)


@pytest.fixture(scope="module")
def scenes() -> list[SoundScene]:
    return [sounds_of(i) for i in range(120)]


@pytest.fixture(scope="module")
def questions(scenes: list[SoundScene], families: list[Family]) -> list[Question]:
    return ask_shard(scenes, families, 24, "test", SOUND)


def test_answers_agree_with_a_second_engine(
    scenes: list[SoundScene], questions: list[Question]
) -> None:
    assert len(questions) == 24 * len(scenes)
    check_answers(questions, scenes)


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


def test_questions_have_no_placeholders(questions: list[Question]) -> None:
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
    assert sounds_of(3) == sounds_of(3) != sounds_of(4)


def test_sounds_of_a_scene_do_not_overlap(scenes: list[SoundScene]) -> None:
    for scene in scenes:
        assert 8 <= len(scene.objects) <= 10
        for sound, following in zip(scene.objects, scene.objects[1:], strict=False):
            assert following.onset - (sound.onset + sound.duration) > 0.029
        last = scene.objects[-1]
        assert last.onset + last.duration <= scene.seconds


def test_sounds_start_on_a_beat_or_after_the_previous_sound() -> None:
    for beat in (0.6, None):
        rules = SoundRules(beat=beat)
        settings = SoundSettings({"val": 1}, rules=rules)
        for index in range(20):
            sounds = sounds_of(index, settings).objects
            first = sounds[0].onset
            for k, (sound, following) in enumerate(pairwise(sounds), 1):
                if beat is None:
                    silence = following.onset - sound.onset - sound.duration
                    assert rules.gap[0] - 1e-4 < silence < rules.gap[1] + 1e-4
                else:
                    # The start within its turn is drawn for both sounds.
                    spread = rules.gap[1] - rules.gap[0]
                    assert abs(following.onset - first - k * beat) < spread + 1e-4


def test_turns_that_are_too_short_are_refused() -> None:
    with pytest.raises(UserError, match=r"data.sound.rules.beat=0.5: turns take up to 0.59 s"):
        SoundRules(beat=0.5)
    with pytest.raises(UserError, match=r"data.sound.rules.seconds=6.0: scenes take up to 6.2"):
        SoundRules(seconds=6.0)
