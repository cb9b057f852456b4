from __future__ import annotations

import pytest

from filmvqa.clevr.programs import (
    ANSWER_FUNCTIONS,
    QUESTION_TYPES,
    NotUniqueError,
    SceneIndex,
    execute,
    prefix_order,
    question_type,
    token,
)
from filmvqa.clevr.schema import Function, Scene, SceneObject
from filmvqa.errors import UserError


def thing(shape: str, color: str, size: str = "large", material: str = "metal") -> SceneObject:
    return SceneObject(color, size, 0.0, shape, material, (0.0, 0.0, 0.7), (0.0, 0.0, 9.0))


@pytest.fixture
def index() -> SceneIndex:
    """Three things in a row from left to right: red cube, small blue rubber sphere, red sphere."""
    objects = [
        thing("cube", "red"),
        thing("sphere", "blue", "small", "rubber"),
        thing("sphere", "red"),
    ]
    relations = {
        "left": [[], [0], [0, 1]],
        "right": [[1, 2], [2], []],
        "front": [[], [], []],
        "behind": [[], [], []],
    }
    return SceneIndex(Scene(0, "x.png", "val", objects, relations, {}))


def program(*steps: tuple) -> list[Function]:
    return [Function(name, list(inputs), list(values)) for name, inputs, values in steps]


SCENE = ("scene", (), ())


@pytest.mark.parametrize(
    ("steps", "expected"),
    [
        ([SCENE, ("count", [0], [])], 3),
        ([SCENE, ("filter_color", [0], ["red"]), ("count", [1], [])], 2),
        ([SCENE, ("filter_shape", [0], ["cylinder"]), ("exist", [1], [])], False),
        (
            [SCENE, ("filter_size", [0], ["small"]), ("unique", [1], []), ("query_material", [2], [])],
            "rubber",
        ),
        (
            [SCENE, ("filter_color", [0], ["blue"]), ("unique", [1], []), ("relate", [2], ["left"]),
             ("unique", [3], []), ("query_shape", [4], [])],
            "cube",
        ),
        (
            [SCENE, ("filter_shape", [0], ["cube"]), ("unique", [1], []), ("same_color", [2], []),
             ("count", [3], [])],
            1,
        ),
        (
            [SCENE, ("filter_color", [0], ["red"]), SCENE, ("filter_shape", [2], ["sphere"]),
             ("intersect", [1, 3], []), ("count", [4], [])],
            1,
        ),
        (
            [SCENE, ("filter_color", [0], ["red"]), SCENE, ("filter_shape", [2], ["sphere"]),
             ("union", [1, 3], []), ("count", [4], [])],
            3,
        ),
        (
            [SCENE, ("filter_color", [0], ["red"]), ("count", [1], []), SCENE, ("count", [3], []),
             ("less_than", [2, 4], [])],
            True,
        ),
        ([SCENE, ("count", [0], []), ("equal_integer", [1, 1], [])], True),
    ],
)  # fmt: skip
def test_functions(index: SceneIndex, steps: list, expected: object) -> None:
    found = execute(program(*steps), index)[-1]
    assert found == expected
    assert isinstance(found, bool) == isinstance(expected, bool)


def test_unique_needs_exactly_one(index: SceneIndex) -> None:
    for color in ("red", "green"):
        with pytest.raises(NotUniqueError):
            execute(program(SCENE, ("filter_color", [0], [color]), ("unique", [1], [])), index)


def test_unknown_function_is_named(index: SceneIndex) -> None:
    with pytest.raises(UserError, match="paint"):
        execute(program(SCENE, ("paint", [0], [])), index)


def test_thirteen_functions_make_five_types() -> None:
    assert [f for fs in QUESTION_TYPES.values() for f in fs] == list(ANSWER_FUNCTIONS)
    assert len(ANSWER_FUNCTIONS) == 13
    assert question_type("less_than") == "compare integer"
    assert question_type("equal_integer") == "compare integer"
    assert question_type("equal_shape") == "compare attribute"
    with pytest.raises(UserError):
        question_type("scene")


def test_prefix_order() -> None:
    steps = program(
        SCENE, ("filter_color", [0], ["red"]), ("count", [1], []), SCENE, ("count", [3], []),
        ("less_than", [2, 4], []),
    )  # fmt: skip
    assert [token(steps[i]) for i in prefix_order([step.inputs for step in steps])] == [
        "less_than", "count", "filter_color[red]", "scene", "count", "scene",
    ]  # fmt: skip


@pytest.mark.parametrize("bad", [[1], [5], [-1]])
def test_programs_that_refer_forward_or_to_themselves_are_refused(bad: list[int]) -> None:
    with pytest.raises(ValueError, match="inputs must be earlier steps"):
        prefix_order([[], bad])


def test_a_program_that_explodes_into_a_tree_is_refused() -> None:
    with pytest.raises(ValueError, match="shared too often"):
        prefix_order([[], *([i, i] for i in range(40))])
