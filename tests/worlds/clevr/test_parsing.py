from __future__ import annotations

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.worlds.clevr.parsing import QuestionParser, answer_of
from filmvqa.worlds.clevr.scene_file import read_scenes
from filmvqa.worlds.engine.families import read_families
from filmvqa.worlds.engine.programs import SceneIndex
from filmvqa.worlds.engine.schema import read_questions
from filmvqa.worlds.engine.wording import write_question

PARSER = QuestionParser(read_families())


def test_every_generated_question_is_read_as_its_program(tiny_world: Path) -> None:
    """The answer is that of the scene."""
    scenes = {
        s.image_index: SceneIndex(s)
        for s in read_scenes(tiny_world / "scenes/CLEVR_train_scenes.json").scenes
    }
    for question in read_questions(tiny_world / "questions/CLEVR_train_questions.json").questions:
        readings = PARSER.read(question.question)
        assert question.program in [reading.program for reading in readings]
        scene = scenes[question.image_index]
        assert PARSER.true_answer(question.question, scene) == question.answer


def test_all_families_are_read() -> None:
    """Ten wordings of each, all with the same values."""
    rng = Random(0)
    examples = {
        "Shape": "cube", "Size": "small", "Color": "red", "Material": "metal", "Relation": "left",
    }  # fmt: skip
    for family in read_families():
        template = family.template
        for _ in range(10):
            values = {
                p.name: None if p.name in template.null_parameters else examples[p.type]
                for p in template.params
            }
            for a, b in template.equal_parameters:
                values[b] = values[a]
            text = write_question(template, values, rng)
            assert family.index in [reading.family for reading in PARSER.read(text)], text


@given(st.sampled_from(["how many {}s are there", "IS THERE A {} ?"]),
       st.sampled_from(["big Red metal cube", "tiny ball", "matte thing", "Object"]))  # fmt: skip
def test_case_and_punctuation_do_not_matter(frame: str, noun: str) -> None:
    text = frame.format(noun)
    plain = PARSER.read(text)
    assert plain
    assert PARSER.read("  " + text.upper().replace(" ", "  ").rstrip("?") + " ") == plain


@pytest.mark.parametrize("text", ["", "?", "What is love?", "What color is the", "red cube"])
def test_other_texts_have_no_reading(text: str) -> None:
    assert PARSER.read(text) == []


def test_a_question_without_an_answer_in_the_scene(tiny_world: Path) -> None:
    scene = SceneIndex(read_scenes(tiny_world / "scenes/CLEVR_val_scenes.json").scenes[0])
    (reading,) = PARSER.read("What color is the thing?")  # there are several
    assert answer_of(reading.program, scene) is None
    assert PARSER.true_answer("What color is the thing?", scene) is None
