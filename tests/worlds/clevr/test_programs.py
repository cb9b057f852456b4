from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.system.errors import UserError
from filmvqa.worlds.clevr.scene_file import Scene
from filmvqa.worlds.engine.programs import (
    ANSWER_FUNCTIONS,
    QUESTION_TYPES,
    NotUniqueError,
    SceneIndex,
    answering_step,
    execute,
    last_steps,
    prefix_order,
    token,
)
from filmvqa.worlds.engine.schema import Function
from filmvqa.worlds.engine.world import CLEVR
from tests.worlds.clevr.records import make_object, make_program


@pytest.fixture
def scene_index() -> SceneIndex:
    """Three objects in a row from left to right: red cube, small blue rubber sphere, red sphere."""
    objects = [
        make_object("cube", "red"),
        make_object("sphere", "blue", "small", "rubber"),
        make_object("sphere", "red"),
    ]
    relations = {
        "left": [[], [0], [0, 1]],
        "right": [[1, 2], [2], []],
        "front": [[], [], []],
        "behind": [[], [], []],
    }
    return SceneIndex(Scene(0, "x.png", "val", objects, relations, {}))


SCENE = ("scene", (), ())


def test_unique_takes_one_object_and_unknown_functions_are_named(scene_index: SceneIndex) -> None:
    for color in ("red", "green"):
        program = make_program(SCENE, ("filter_color", [0], [color]), ("unique", [1], []))
        with pytest.raises(NotUniqueError):
            execute(program, scene_index)
    with pytest.raises(UserError, match="paint"):
        execute(make_program(SCENE, ("paint", [0], [])), scene_index)


def test_thirteen_functions_make_five_types() -> None:
    assert [f for fs in QUESTION_TYPES.values() for f in fs] == list(ANSWER_FUNCTIONS)
    assert len(ANSWER_FUNCTIONS) == 13
    assert CLEVR.question_type("less_than") == "compare integer"
    assert CLEVR.question_type("equal_integer") == "compare integer"
    assert CLEVR.question_type("equal_shape") == "compare attribute"
    with pytest.raises(UserError):
        CLEVR.question_type("scene")


PROGRAM = [
    SCENE, ("filter_color", [0], ["red"]), ("count", [1], []), SCENE, ("count", [3], []),
    ("less_than", [2, 4], []),
]  # fmt: skip
IN_PREFIX_ORDER = ["less_than", "count", "filter_color[red]", "scene", "count", "scene"]


def in_prefix_order(steps: list[Function]) -> list[str]:
    functions, inputs = [s.function for s in steps], [s.inputs for s in steps]
    return [token(steps[i]) for i in prefix_order(inputs, answering_step(functions, inputs))]


def test_prefix_order_of_lists_that_end_or_begin_with_the_answer() -> None:
    assert in_prefix_order(make_program(*PROGRAM)) == IN_PREFIX_ORDER
    end = len(PROGRAM) - 1
    steps = make_program(
        *((name, [end - i for i in inputs], values) for name, inputs, values in PROGRAM[::-1])
    )
    assert in_prefix_order(steps) == IN_PREFIX_ORDER


@given(st.data())
def test_prefix_order_does_not_depend_on_the_order_of_steps(data: st.DataObject) -> None:
    """The steps of the same tree, in any order in which each step comes after its inputs."""
    order: list[int] = []
    while len(order) < len(PROGRAM):
        ready = [
            i
            for i, (_, inputs, _) in enumerate(PROGRAM)
            if i not in order and set(inputs) <= set(order)
        ]
        order.append(data.draw(st.sampled_from(ready)))
    steps = make_program(
        *(
            (name, [order.index(i) for i in inputs], values)
            for name, inputs, values in (PROGRAM[i] for i in order)
        )
    )
    assert in_prefix_order(steps) == IN_PREFIX_ORDER


def test_of_several_unused_steps_the_one_that_can_answer_is_chosen() -> None:
    unused = make_program(SCENE, ("exist", [0], []), SCENE)
    assert in_prefix_order(unused) == ["exist", "scene"]
    both = make_program(SCENE, ("count", [0], []), ("exist", [0], []))
    assert in_prefix_order(both) == ["exist", "scene"]
    for steps in ([SCENE, SCENE], [SCENE, ("count", [0], []), ("exist", [0], []), SCENE]):
        with pytest.raises(ValueError, match="program's steps gives the answer"):
            in_prefix_order(make_program(*steps))


@pytest.mark.parametrize(
    "inputs", [[[], [1]], [[], [5]], [[], [-1]], [[1], [0]], [[1], [], [0, 1]]]
)
def test_invalid_inputs_are_refused(inputs: list[list[int]]) -> None:
    with pytest.raises(ValueError, match="inputs must be earlier steps"):
        last_steps(inputs)


def test_programs_that_are_far_from_trees_are_refused() -> None:
    with pytest.raises(ValueError, match="shared too often"):
        prefix_order([[], *([i, i] for i in range(40))], 40)
