from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from filmvqa.clevr.ask_scenes import ask_scenes
from filmvqa.clevr.generate import generate
from filmvqa.clevr.generator_settings import GeneratorSettings
from filmvqa.errors import UserError
from tests.clevr.reference_engine import answer

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


def asked(content: dict[str, Any], folder: Path, **options: Any) -> list[dict[str, Any]]:
    """The questions about changed scenes."""
    path = folder / "scenes.json"
    path.write_text(json.dumps(content))
    count = ask_scenes(path, folder / "questions.json", **options)
    questions: list[dict[str, Any]] = json.loads((folder / "questions.json").read_text())[
        "questions"
    ]
    assert len(questions) == count
    return questions


def test_a_generated_sets_scenes_give_its_own_questions(
    generated_set: Path, tmp_path: Path
) -> None:
    path = generated_set / "scenes/CLEVR_val_scenes.json"
    count = ask_scenes(path, tmp_path / "q.json", seed=3, workers=2)
    expected = generated_set / "questions/CLEVR_val_questions.json"
    assert (tmp_path / "q.json").read_bytes() == expected.read_bytes()
    assert count == len(json.loads(expected.read_text())["questions"])


def test_scenes_without_relationships_get_those_of_their_positions(
    generated_set: Path, tmp_path: Path
) -> None:
    """As another generator may leave them: only attributes and places."""
    content = scenes_of(generated_set)
    content["scenes"] = content["scenes"][:20]
    plain = asked(content, tmp_path)
    for scene in content["scenes"]:
        del scene["relationships"], scene["split"], scene["image_index"]
        for thing in scene["objects"]:
            del thing["rotation"], thing["pixel_coords"]
    (tmp_path / "questions.json").unlink()
    again = asked(content, tmp_path)
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
def test_a_scene_that_cannot_be_asked_about_is_named(
    generated_set: Path,
    tmp_path: Path,
    change: Callable[[dict[str, Any]], object],
    named: str,
) -> None:
    content = scenes_of(generated_set)
    content["scenes"] = content["scenes"][:5]
    change(content["scenes"][3])
    with pytest.raises(UserError, match=named):
        asked(content, tmp_path)
    assert not (tmp_path / "questions.json").exists()


def test_an_existing_output_is_kept(generated_set: Path, tmp_path: Path) -> None:
    path = generated_set / "scenes/CLEVR_val_scenes.json"
    (tmp_path / "q.json").write_text("mine")
    for output, named in ((tmp_path / "q.json", "exists already"), (path, "CLEVR_val_scenes")):
        with pytest.raises(UserError, match=named):
            ask_scenes(path, output)
    assert (tmp_path / "q.json").read_text() == "mine"
