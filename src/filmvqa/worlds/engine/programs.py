"""Functional programs: their execution on a scene, and the order of their steps.

A set of objects is an integer whose bit i is 1 if object i is in the set, so that filters, unions
and intersections are bitwise operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from typing import Any, Protocol

from filmvqa.system.errors import UserError
from filmvqa.worlds.engine.schema import Function
from filmvqa.worlds.engine.world import CLEVR, World

#: CLEVR's thirteen functions that end a program, and its five question types, in the order of
#: Table 1 of the FiLM paper.
ANSWER_FUNCTIONS = CLEVR.answer_functions
QUESTION_TYPES = CLEVR.question_types
#: A value or None for each of a world's ``filter_attributes``, in their order.
Filter = tuple[str | None, ...]
#: Output of a step: a set (bits), an object's index or a number (int), a bool or a value (str).
Value = int | bool | str


class SceneRecord(Protocol):
    """A scene of any world. Its objects have the world's attributes, and ``relationships[r][i]``
    lists the objects that are in relation r to object i. If the world has ``first`` and ``last``,
    the objects are in that order."""

    @property
    def image_index(self) -> int: ...
    @property
    def image_filename(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def objects(self) -> Sequence[Any]: ...
    @property
    def relationships(self) -> dict[str, list[list[int]]]: ...


#: Referring expressions are balanced over the number of objects that they refer to.
NUMBERS_REFERRED = ("none", "one", "several")


class NotUniqueError(Exception):
    """A question is invalid on a scene: the input of ``unique`` is not a set of one object, or the
    input of ``first`` or ``last`` has fewer than two objects."""


class SceneIndex:
    """Sets of a scene's objects, computed once for all programs.

    Attributes
    ----------
    all_objects
        The set of all objects.
    attributes
        ``attributes[i]`` are object i's values, in the order of the world's attributes.
    matching
        ``matching[f]`` is the set of objects that match filter f. Filters that match no object
        are not in it.
    related
        ``related[r][i]`` is the set of objects in relation r to object i.
    world
        The scene's world.
    """

    def __init__(self, scene: SceneRecord, world: World = CLEVR) -> None:
        self.world = world
        self.all_objects = (1 << len(scene.objects)) - 1
        names = list(world.attributes)
        self.attributes: list[tuple[str, ...]] = [
            tuple([getattr(o, name) for name in names]) for o in scene.objects
        ]
        self.matching: dict[Filter, int] = {}
        self._matching_without: dict[tuple[int, ...], list[tuple[Filter, int]]] = {}
        self._places = {name: k for k, name in enumerate(names)}
        self._with_value: dict[tuple[str, str], int] = {}
        composite = len(world.filter_attributes)
        for i, values in enumerate(self.attributes):
            for key in product(*((value, None) for value in values[:composite])):
                self.matching[key] = self.matching.get(key, 0) | 1 << i
            for named in zip(names, values, strict=True):
                self._with_value[named] = self._with_value.get(named, 0) | 1 << i
        self.related = {
            r: [sum(1 << j for j in row) for row in scene.relationships[r]] for r in world.relations
        }

    def matching_without(self, places: tuple[int, ...]) -> list[tuple[Filter, int]]:
        """Return the items of ``matching`` whose filters have no value at these positions."""
        if places not in self._matching_without:
            self._matching_without[places] = [
                item for item in self.matching.items() if all(item[0][k] is None for k in places)
            ]
        return self._matching_without[places]

    def apply(self, function: str, inputs: Sequence[Value], value: str | None) -> Value:
        """Apply one function of a program to the outputs of earlier steps.

        Raises
        ------
        NotUniqueError
            If the question is invalid on the scene.
        UserError
            If the world has no such function.
        """
        if function not in self.world.functions:
            raise UserError(f"unknown function {function!r} in a program")
        operation, _, attribute = function.partition("_")
        if operation == "scene":
            return self.all_objects
        if operation == "equal":
            return inputs[0] == inputs[1]
        first, second = int(inputs[0]), int(inputs[-1])  # sets, an object or numbers
        match operation:
            case "unique":
                if first.bit_count() != 1:
                    raise NotUniqueError
                return first.bit_length() - 1
            case "first" | "last":
                if first.bit_count() < 2:
                    raise NotUniqueError
                return (first if operation == "last" else first & -first).bit_length() - 1
            case "relate":
                return self.related[value or ""][first]
            case "filter":
                return first & self._with_value.get((attribute, value or ""), 0)
            case "query":
                return self.attributes[first][self._places[attribute]]
            case "count":
                return first.bit_count()
            case "exist":
                return first != 0
            case "union":
                return first | second
            case "intersect":
                return first & second
            case "less":
                return first < second
            case "greater":
                return first > second
        own_value = self.attributes[first][self._places[attribute]]  # same_<attribute>
        return self._with_value[attribute, own_value] & ~(1 << first)


def execute(program: Sequence[Function], scene_index: SceneIndex) -> list[Value]:
    """Return the output of every step of a program; the last one is the answer.

    Raises
    ------
    NotUniqueError, UserError
        As from ``SceneIndex.apply``.
    """
    outputs: list[Value] = []
    for step in program:
        value = step.value_inputs[0] if step.value_inputs else None
        outputs.append(scene_index.apply(step.function, [outputs[i] for i in step.inputs], value))
    return outputs


def answer_text(value: Value) -> str:
    """Return an answer as CLEVR writes it: "yes", "no", a number or an attribute value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def token(step: Function) -> str:
    """Return a step's token in the program vocabulary, such as ``filter_color[blue]``."""
    return f"{step.function}[{','.join(step.value_inputs)}]" if step.value_inputs else step.function


def last_steps(inputs: Sequence[Sequence[int]]) -> list[int]:
    """The steps of a program that are no other step's input.

    ``inputs[i]`` are the indices of the inputs of step i. Either all inputs are earlier steps, or,
    in a list that begins with the answer, all are later steps.

    Raises
    ------
    ValueError
        If neither holds.
    """
    steps = list(enumerate(inputs))
    forward = [i for i, step in steps if any(not 0 <= j < i for j in step)]
    if forward and any(not i < j < len(inputs) for i, step in steps for j in step):
        i = forward[0]
        raise ValueError(
            f"step {i} of its program has the inputs {list(inputs[i])}; "
            "inputs must be earlier steps"
        )
    used = {j for step in inputs for j in step}
    return [i for i, _ in steps if i not in used]


def answering_step(
    functions: Sequence[str], inputs: Sequence[Sequence[int]], world: World = CLEVR
) -> int:
    """The step that gives a program's answer, in whichever order its steps are listed.

    It is the only step that is no other step's input. If there are several, it is the last step
    of the list if that can answer, else the only one of them that can.

    Raises
    ------
    ValueError
        If no step or several steps qualify, or ``last_steps`` refuses the inputs.
    """
    ends = last_steps(inputs)
    if len(ends) == 1:
        return ends[0]
    answering = [i for i in ends if functions[i] in world.type_names]
    if answering and (len(answering) == 1 or answering[-1] == len(inputs) - 1):
        return answering[-1]
    raise ValueError(f"it is unclear which of its program's steps gives the answer: {ends}")


def prefix_order(inputs: Sequence[Sequence[int]], last: int) -> list[int]:
    """Return the steps of a program in prefix order: each step before its inputs, as in clevr-iep.

    ``inputs`` must be accepted by ``last_steps``; ``last`` is the step that gives the answer. A
    step that is the input of two steps is listed twice.

    Raises
    ------
    ValueError
        If shared steps make the list longer than 16 times the number of steps.
    """
    order: list[int] = []
    pending = [last]
    while pending:
        i = pending.pop()
        order.append(i)
        if len(order) > 16 * len(inputs):
            raise ValueError("its program is not a tree: its steps are shared too often")
        pending.extend(reversed(inputs[i]))
    return order
