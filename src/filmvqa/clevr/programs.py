"""CLEVR's functional programs: execution on a scene, and what type of question they answer.

A set of objects is an integer whose bit i says whether object i belongs to it, so that filters,
unions and intersections are single machine operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from filmvqa.clevr.schema import ATTRIBUTES, RELATIONS, Function, Scene
from filmvqa.errors import UserError

#: The thirteen functions that end a CLEVR program, in the fixed order of every question file.
ANSWER_FUNCTIONS = (
    "count",
    "exist",
    "equal_integer",
    "less_than",
    "greater_than",
    "query_size",
    "query_color",
    "query_material",
    "query_shape",
    "equal_size",
    "equal_color",
    "equal_material",
    "equal_shape",
)
#: The five question types of the paper's Table 1, in its order, and the functions of each.
QUESTION_TYPES: dict[str, tuple[str, ...]] = {
    "count": ANSWER_FUNCTIONS[0:1],
    "exist": ANSWER_FUNCTIONS[1:2],
    "compare integer": ANSWER_FUNCTIONS[2:5],
    "query attribute": ANSWER_FUNCTIONS[5:9],
    "compare attribute": ANSWER_FUNCTIONS[9:13],
}
#: An attribute combination: one value or None for each of ``ATTRIBUTES``, in that order.
Filter = tuple[str | None, str | None, str | None, str | None]
NO_FILTER: Filter = (None, None, None, None)
#: What a step of a program gives: a set (bits), an object or a number (int), a bool or a value.
Value = int | bool | str
#: What each function reads and what it gives: "set", "object", "number", "boolean", or the
#: attribute of which it is a value.
SIGNATURES: dict[str, tuple[tuple[str, ...], str]] = {
    "scene": ((), "set"),
    "unique": (("set",), "object"),
    "relate": (("object",), "set"),
    "count": (("set",), "number"),
    "exist": (("set",), "boolean"),
    **dict.fromkeys(("union", "intersect"), (("set", "set"), "set")),
    **dict.fromkeys(
        ("equal_integer", "less_than", "greater_than"), (("number", "number"), "boolean")
    ),
}
for _attribute in ATTRIBUTES:
    SIGNATURES[f"filter_{_attribute}"] = (("set",), "set")
    SIGNATURES[f"query_{_attribute}"] = (("object",), _attribute)
    SIGNATURES[f"same_{_attribute}"] = (("object",), "set")
    SIGNATURES[f"equal_{_attribute}"] = ((_attribute, _attribute), "boolean")


def question_type(last_function: str) -> str:
    """The question type, one of five, of a program that ends in ``last_function``."""
    for name, functions in QUESTION_TYPES.items():
        if last_function in functions:
            return name
    raise UserError(f"no CLEVR program ends in {last_function!r}")


class NotUniqueError(Exception):
    """``unique`` was given no object or several: the question makes no sense on this scene."""


class SceneIndex:
    """A scene's objects as bit sets.

    ``all_objects`` has all objects; ``matching[f]`` those that fit filter f, for every f that at
    least one object fits; ``related[r][i]`` those that are r of object i; ``same[a][i]`` the
    others with object i's value of attribute a; ``attributes[i]`` object i's four values.
    """

    def __init__(self, scene: Scene) -> None:
        self.all_objects = (1 << len(scene.objects)) - 1
        self.attributes = [(o.size, o.color, o.material, o.shape) for o in scene.objects]
        self.matching: dict[Filter, int] = {}
        for i, (size, color, material, shape) in enumerate(self.attributes):
            pairs = ((size, None), (color, None), (material, None), (shape, None))
            for key in product(*pairs):
                self.matching[key] = self.matching.get(key, 0) | 1 << i
        self.related = {
            r: [sum(1 << j for j in row) for row in scene.relationships[r]] for r in RELATIONS
        }
        self.same = {
            name: [
                sum(1 << j for j, b in enumerate(self.attributes) if b[k] == a[k] and j != i)
                for i, a in enumerate(self.attributes)
            ]
            for k, name in enumerate(ATTRIBUTES)
        }

    def with_value(self, attribute: str, value: str) -> int:
        """The objects whose attribute has that value."""
        key: list[str | None] = [None] * len(ATTRIBUTES)
        key[list(ATTRIBUTES).index(attribute)] = value
        return self.matching.get((key[0], key[1], key[2], key[3]), 0)

    def apply(self, function: str, inputs: Sequence[Value], value: str | None) -> Value:
        """One step of a program.

        Raises
        ------
        NotUniqueError
            If ``unique`` is given a set of other than one object.
        UserError
            For a function that CLEVR does not have.
        """
        operation, _, attribute = function.partition("_")
        first = int(inputs[0]) if inputs and not isinstance(inputs[0], str) else 0
        if function == "scene":
            return self.all_objects
        if function == "unique":
            if first.bit_count() != 1:
                raise NotUniqueError
            return first.bit_length() - 1
        if function == "relate":
            return self.related[value or ""][first]
        if function == "count":
            return first.bit_count()
        if function == "exist":
            return first != 0
        if len(SIGNATURES.get(function, ((), ""))[0]) == 2:
            return self._combine(function, inputs[0], inputs[1])
        if attribute in ATTRIBUTES:
            if operation == "filter":
                return first & self.with_value(attribute, value or "")
            if operation == "query":
                return self.attributes[first][list(ATTRIBUTES).index(attribute)]
            if operation == "same":
                return self.same[attribute][first]
        raise UserError(f"unknown function {function!r} in a program")

    @staticmethod
    def _combine(function: str, a: Value, b: Value) -> Value:
        if function == "less_than":
            return int(a) < int(b)
        if function == "greater_than":
            return int(a) > int(b)
        if function == "union":
            return int(a) | int(b)
        if function == "intersect":
            return int(a) & int(b)
        return a == b


def execute(program: Sequence[Function], scene_index: SceneIndex) -> list[Value]:
    """The output of every step of a program; the last is the answer.

    Raises
    ------
    NotUniqueError
        If the program needs a unique object and there is none.
    """
    outputs: list[Value] = []
    for step in program:
        value = step.value_inputs[0] if step.value_inputs else None
        outputs.append(scene_index.apply(step.function, [outputs[i] for i in step.inputs], value))
    return outputs


def answer_text(value: Value) -> str:
    """An answer as CLEVR writes it: yes, no, a number or a value."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)


def token(step: Function) -> str:
    """A step as one token of the program vocabulary, such as ``filter_color[blue]``."""
    return f"{step.function}[{','.join(step.value_inputs)}]" if step.value_inputs else step.function


def prefix_order(inputs: Sequence[Sequence[int]]) -> list[int]:
    """A program's steps in prefix order, each before what it reads (clevr-iep's order), from what
    each step reads.

    Raises
    ------
    ValueError
        If a step refers to itself, forward or outside.
    """
    order: list[int] = []
    pending = [len(inputs) - 1] if inputs else []
    while pending:
        i = pending.pop()
        order.append(i)
        if any(not 0 <= j < i for j in inputs[i]):
            raise ValueError(
                f"step {i} of its program reads step {max(inputs[i])}; "
                "a step may only read earlier ones"
            )
        if len(order) > 16 * len(inputs):
            raise ValueError("its program is no tree: its steps are read over and over")
        pending.extend(reversed(inputs[i]))
    return order
