from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import pytest

from filmvqa.system.errors import UserError
from filmvqa.worlds.clevr import scene_file
from filmvqa.worlds.engine.world import CLEVR, World, read_world

#: The types of the official generator's metadata, in its order, which differs from this package's.
OFFICIAL_TYPES: dict[str, Any] = {
    "Object": None, "ObjectSet": None, "Integer": None, "Bool": None,
    "Shape": ["cube", "sphere", "cylinder"],
    "Color": ["gray", "red", "blue", "green", "brown", "purple", "cyan", "yellow"],
    "Relation": ["left", "right", "behind", "front"],
    "Size": ["small", "large"],
    "Material": ["rubber", "metal"],
}  # fmt: skip


def official_metadata() -> dict[str, Any]:
    """Metadata in the official form, without this package's further keys."""
    ours = json.loads((CLEVR.templates.parent / "metadata.json").read_text())
    return {"dataset": "CLEVR-v1.0", "types": OFFICIAL_TYPES, "functions": ours["functions"][::-1]}


def test_the_official_generators_metadata_give_the_same_world(tmp_path: Path) -> None:
    path = tmp_path / "metadata.json"
    path.write_text(json.dumps(official_metadata()))
    world = read_world(path)
    assert world.domains == CLEVR.domains
    assert list(world.attributes.items()) == list(CLEVR.attributes.items())
    assert world.filter_types == ["Size", "Color", "Material", "Shape"]
    assert world.question_types == CLEVR.question_types
    assert world.answer_functions == CLEVR.answer_functions
    assert world.functions == CLEVR.functions
    assert world.noun_type == "Shape"


def test_changed_metadata_are_read_again(tmp_path: Path) -> None:
    path = tmp_path / "metadata.json"
    for name in ("OFFICIAL", "OTHER"):
        path.write_text(json.dumps(official_metadata() | {"dataset": name}))
        assert read_world(path).dataset == name


def test_clevrs_metadata_are_those_of_its_settings() -> None:
    types = (scene_file.Size, scene_file.Color, scene_file.Material, scene_file.Shape)
    assert list(CLEVR.attributes.values()) == [get_args(values) for values in types]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda m: m["functions"].append(m["functions"][0]), "two functions are called"),
        (lambda m: m["functions"].append({"name": "paint", "output": "Bool"}), "'paint' is not"),
        (lambda m: m["functions"].append({"name": "query_age", "output": "Age"}), "the type 'Age'"),
        (
            lambda m: m["functions"].append(
                {"name": "sort", "output": "Object", "side_inputs": ["Integer"]}
            ),
            "side input 'Integer', which has no values",
        ),
        (
            lambda m: m["functions"].append(
                {"name": "filter_all", "output": "Bool", "template_only": True}
            ),
            "not a known composite node",
        ),
        (lambda m: m.update(question_types={"age": ["query_age"]}), "question_types has"),
        (lambda m: m.pop("functions"), "functions"),
        (lambda m: m["types"].update(Shape=3), "got `int`"),
    ],
)
def test_broken_metadata_are_named(
    tmp_path: Path, change: Callable[[dict[str, Any]], Any], message: str
) -> None:
    metadata = official_metadata()
    change(metadata)
    path = tmp_path / "metadata.json"
    path.write_text(json.dumps(metadata))
    with pytest.raises(UserError, match=message) as caught:
        read_world(path)
    assert str(caught.value).startswith(str(path))


def test_an_unknown_world_is_refused() -> None:
    with pytest.raises(UserError, match="'smell' is not a world"):
        read_world("smell")


@pytest.mark.parametrize("name", ["clevr", "sound"])
def test_every_function_of_a_question_type_exists(name: str) -> None:
    world: World = read_world(name)
    for function in world.answer_functions:
        assert function in world.functions
        assert world.question_type(function) in world.question_types
