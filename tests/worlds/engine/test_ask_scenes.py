from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filmvqa.system.errors import UserError
from filmvqa.worlds.clevr.generate import generate
from filmvqa.worlds.clevr.generator_settings import GeneratorSettings
from filmvqa.worlds.clevr.scenes import relate
from filmvqa.worlds.engine.ask_scenes import AskScenesSettings, ask_scenes
from filmvqa.worlds.engine.schema import encode_json
from filmvqa.worlds.engine.world import read_world
from filmvqa.worlds.sound.scenes import SOUND
from filmvqa.worlds.sound.scenes import relate as relate_sounds
from tests.worlds.reference_engine import answer, answer_about_sounds
from tests.worlds.sound.small_sets import sounds_of

SETTINGS = GeneratorSettings(images={"val": 260}, width=16, height=16, rays=1, seed=3)


@pytest.fixture(scope="module")
def generated_set(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of more images than a shard has."""
    root = tmp_path_factory.mktemp("set")
    generate(root, SETTINGS, workers=2)
    return root


def scenes_of(root: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((root / "scenes/CLEVR_val_scenes.json").read_text())
    return content


def ask(
    content: dict[str, Any], folder: Path, relate_by: Any = relate, **options: Any
) -> list[dict[str, Any]]:
    """The questions about changed scenes."""
    path, output = folder / "scenes.json", folder / "questions.json"
    path.write_text(json.dumps(content))
    output.unlink(missing_ok=True)
    count = ask_scenes(AskScenesSettings(scenes=path, output=output, **options), relate_by)
    questions: list[dict[str, Any]] = json.loads(output.read_text())["questions"]
    assert len(questions) == count
    return questions


def test_scenes_of_a_generated_set_give_its_questions(generated_set: Path, tmp_path: Path) -> None:
    path = generated_set / "scenes/CLEVR_val_scenes.json"
    count = ask_scenes(
        AskScenesSettings(scenes=path, output=tmp_path / "q.json", seed=3, workers=2)
    )
    expected = generated_set / "questions/CLEVR_val_questions.json"
    assert (tmp_path / "q.json").read_bytes() == expected.read_bytes()
    assert count == len(json.loads(expected.read_text())["questions"])


def test_scenes_without_relationships_get_those_of_their_positions(
    generated_set: Path, tmp_path: Path
) -> None:
    """Another generator may write only attributes and positions."""
    content = scenes_of(generated_set)
    content["scenes"] = content["scenes"][:20]
    plain = ask(content, tmp_path)
    for scene in content["scenes"]:
        del scene["relationships"], scene["split"], scene["image_index"]
        for thing in scene["objects"]:
            del thing["rotation"], thing["pixel_coords"]
    again = ask(content, tmp_path)
    assert {q["image_index"] for q in again} == {q["image_index"] for q in plain}
    original = {s["image_filename"]: s for s in scenes_of(generated_set)["scenes"]}
    for question in again:
        scene = original[question["image_filename"]]
        assert answer(question["program"], scene) == question["answer"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda s: s["objects"][0].update(shape="bus"), r"scene 3: Invalid enum value 'bus'"),
        (lambda s: s.pop("objects"), "scene 3: .*objects"),
        (lambda s: s["relationships"].pop("left"), "scene 3: relationships 'left'"),
        (
            lambda s: [s.pop("relationships"), s["objects"][0].pop("3d_coords")],
            "scene 3: neither relationships nor directions",
        ),
        (
            lambda s: [s.pop("relationships"), s["directions"].pop("front")],
            "scene 3: no direction 'front'",
        ),
        (lambda s: s.update(image_filename="../x.png"), "scene 3: .*plain file name"),
    ],
)
def test_invalid_scenes_are_named(
    generated_set: Path, tmp_path: Path, change: Callable[[dict[str, Any]], object], named: str
) -> None:
    content = scenes_of(generated_set)
    content["scenes"] = content["scenes"][:5]
    change(content["scenes"][3])
    with pytest.raises(UserError, match=named):
        ask(content, tmp_path)
    assert not (tmp_path / "questions.json").exists()


def test_an_existing_output_is_kept(generated_set: Path, tmp_path: Path) -> None:
    path = generated_set / "scenes/CLEVR_val_scenes.json"
    (tmp_path / "q.json").write_text("mine")
    for output, named in ((tmp_path / "q.json", "exists already"), (path, "CLEVR_val_scenes")):
        with pytest.raises(UserError, match=named):
            ask_scenes(AskScenesSettings(scenes=path, output=output))
    assert (tmp_path / "q.json").read_text() == "mine"


@pytest.fixture
def sounds() -> dict[str, Any]:
    """Scenes of sounds in a file without ``info``."""
    return {"scenes": json.loads(encode_json([sounds_of(i) for i in range(20)]))}


def test_scenes_of_another_world(sounds: dict[str, Any], tmp_path: Path) -> None:
    plain = ask(sounds, tmp_path, world="sound", relate_by=None)
    by_name = {scene["image_filename"]: scene for scene in sounds["scenes"]}
    for question in plain:
        scene = by_name[question["image_filename"]]
        assert answer_about_sounds(question["program"], scene["objects"]) == question["answer"]
    for scene in sounds["scenes"]:
        del scene["relationships"], scene["image_index"], scene["seconds"]
        scene["objects"] = [{name: o[name] for name in SOUND.attributes} for o in scene["objects"]]
    assert ask(sounds, tmp_path, world="sound", relate_by=relate_sounds) == plain


def test_a_world_of_a_file(sounds: dict[str, Any], tmp_path: Path) -> None:
    """Its questions are those of the world with the same metadata and templates."""
    metadata = SOUND.templates.parent / "metadata.json"
    mine = tmp_path / "mine.json"
    mine.write_bytes(metadata.read_bytes())
    plain = ask(sounds, tmp_path, world="sound", relate_by=None)
    options = {"world": str(mine), "relate_by": None}
    assert ask(sounds, tmp_path, templates=SOUND.templates, **options) == plain
    assert read_world(str(mine)).relations == SOUND.relations


def test_sounds_out_of_order_or_without_relationships(
    sounds: dict[str, Any], tmp_path: Path
) -> None:
    del sounds["scenes"][3]["relationships"]
    with pytest.raises(UserError, match="scene 3: no relationships"):
        ask(sounds, tmp_path, world="sound", relate_by=None)
    sounds["scenes"][3]["objects"].reverse()
    with pytest.raises(UserError, match=r"scene 3: .*not in the order of their positions"):
        ask(sounds, tmp_path, world="sound", relate_by=relate_sounds)
