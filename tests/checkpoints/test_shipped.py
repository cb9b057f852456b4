"""Shipped networks answer new questions as well as their cards state."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

import filmvqa
from filmvqa.checkpoints.checkpoint import load_checkpoint
from filmvqa.checkpoints.places import shipped_networks
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.worlds.clevr.parsing import QuestionParser
from filmvqa.worlds.clevr.scene_file import ATTRIBUTES, read_scenes
from filmvqa.worlds.clevr.scene_rules import SceneRules
from filmvqa.worlds.clevr.scenes import to_scene
from filmvqa.worlds.engine.ask_scenes import AskScenesSettings, ask_scenes
from filmvqa.worlds.engine.families import read_families
from filmvqa.worlds.engine.programs import SceneIndex
from filmvqa.worlds.engine.schema import Question, encode_json, read_questions
from tests.end_to_end.workplace import succeed
from tests.worlds.clevr.released_scenes import SCENES, released_layout

#: Width and height of the release's pictures.
SIZE = (480, 320)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """200 pictures with a question each, of a seed that no network was trained on."""
    folder = tmp_path_factory.mktemp("fresh")
    images = "data.generator.images={train: 0, val: 200, test: 0}"
    succeed("generate_clevr.py", "data=two_cores", "data.root=world", images,
            "data.generator.seed=2026", "data.generator.questions_per_image=1",
            cwd=folder)  # fmt: skip
    return folder / "world"


@pytest.mark.parametrize("name", shipped_networks())
def test_it_answers_new_questions_as_its_card_states(name: str, world: Path) -> None:
    card = shipped_networks()[name].with_suffix(".md").read_text(encoding="utf-8")
    num_weights = sum(w.numel() for w in filmvqa.load(name, device="cpu").model.parameters())
    assert f"`film`, {num_weights:,} weights, " in card
    stated = float(re.search(r"\| overall \| ([0-9.]+) \(", card)[1]) / 100
    questions = read_questions(world / "questions/CLEVR_val_questions.json").questions
    assert len(questions) == 200
    # 3.3 standard deviations of 200 questions, exceeded once in a thousand sets.
    tolerance = 3.3 * math.sqrt(stated * (1 - stated) / 200)
    assert abs(share_correct(name, world / "images/val", questions) - stated) < tolerance


#: Questions as people type them, by kind, and the least share of right answers that is not a
#: regression: what was measured less two points, since the bits of a machine change a few answers.
SHORT_QUESTIONS = {
    "all": (0.94, ["How many things are there?"]),
    "shapes": (0.92, [f"How many {s}s are there?" for s in ATTRIBUTES["shape"]]),
    "colors": (0.96, [f"How many {c} things are there?" for c in ATTRIBUTES["color"]]),
    "materials": (0.95, [f"How many {m} things are there?" for m in ATTRIBUTES["material"]]),
    "sizes": (0.96, [f"How many {s} objects are there?" for s in ATTRIBUTES["size"]]),
    "more": (0.95, ["Are there more cubes than spheres?",
                    "Are there more red things than blue things?"]),
    "fewer": (0.94, ["Are there fewer metal things than rubber things?",
                     "Are there fewer cylinders than cubes?"]),
}  # fmt: skip


@pytest.fixture(scope="module", params=shipped_networks())
def short_shares(request: pytest.FixtureRequest, world: Path) -> dict[str, float]:
    """The share of right answers to each kind of short question, about all 200 pictures."""
    scenes = [
        (world / "images/val" / scene.image_filename, SceneIndex(scene))
        for scene in read_scenes(world / "scenes/CLEVR_val_scenes.json").scenes
    ]
    vqa, parser = filmvqa.load(request.param, device="cpu"), QuestionParser(read_families())
    features = [vqa.features(picture) for picture, _ in scenes]
    shares = {}
    for kind, (_, questions) in SHORT_QUESTIONS.items():
        right = [
            answer.text == parser.true_answer(question, scene)
            for question in questions
            for answer, (_, scene) in zip(
                vqa.ask_all(features, [question] * len(scenes)), scenes, strict=True
            )
        ]
        assert len(right) == 200 * len(questions)
        shares[kind] = sum(right) / len(right)
    return shares


@pytest.mark.parametrize("kind", SHORT_QUESTIONS)
def test_it_answers_short_questions(kind: str, short_shares: dict[str, float]) -> None:
    """The aim is 97% of each kind."""
    share, floor = short_shares[kind], SHORT_QUESTIONS[kind][0]
    assert share >= floor
    if share < 0.97:
        pytest.xfail(f"{share:.1%} of the short questions about {kind} are right, not 97%")


@pytest.mark.parametrize("name", shipped_networks())
def test_it_answers_about_pictures_of_the_release(name: str, shared: Path, tmp_path: Path) -> None:
    scenes = [
        to_scene(released_layout(picture), SceneRules(), "val", int(Path(picture).stem[-6:]), *SIZE)
        for picture in SCENES
    ]
    (tmp_path / "scenes.json").write_bytes(encode_json({"scenes": scenes}))
    ask_scenes(
        AskScenesSettings(
            scenes=tmp_path / "scenes.json", output=tmp_path / "questions.json",
            questions_per_image=60,
        )
    )  # fmt: skip
    questions = read_questions(tmp_path / "questions.json").questions
    assert len(questions) > 120
    assert share_correct(name, shared / "clevr_images", questions) > 0.9


def share_correct(name: str, images: Path, questions: list[Question]) -> float:
    vqa = filmvqa.load(name, device="cpu")
    answers = vqa.ask_all(
        [images / q.image_filename for q in questions], [q.question for q in questions]
    )
    return sum(a.text == q.answer for a, q in zip(answers, questions, strict=True)) / len(questions)


@pytest.mark.parametrize("name", shipped_networks())
def test_its_vocabulary_preprocesses_questions(name: str, world: Path) -> None:
    succeed("preprocess_questions.py", "data=two_cores", f"data.root={world}", f"vocab={name}",
            cwd=world)  # fmt: skip
    vocabulary = Vocabulary.load(world / "h5/vocab.json")
    assert vocabulary.to_dict() == load_checkpoint(name)["vocabulary"]
    vocabulary.save(world / "words.txt")  # a vocabulary file may have any name
    succeed("preprocess_questions.py", "data=two_cores", f"data.root={world}", "vocab=words.txt",
            cwd=world)  # fmt: skip


@pytest.mark.parametrize("name", sorted({"clevr_world", *shipped_networks()}))
def test_it_is_small_and_knows_the_whole_world(name: str) -> None:
    path = shipped_networks()[name]
    assert path.stat().st_size < 3e6
    content = load_checkpoint(name)  # names no folder of the machine that trained it
    places = [*content["data"].values(), *content["config"]["data"].values()]
    assert not [place for place in places if str(place).startswith("/")]
    content = load_checkpoint(name)
    assert content["config"]["data"]["families"] is None
    assert {"cube", "left", "shiny"} <= content["vocabulary"]["question"].keys()
