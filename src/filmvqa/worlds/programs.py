"""CLEVR's functional programs: execution on a scene, and their question types.

A set of objects is an integer whose bit i is 1 if object i is in the set, so that filters, unions
and intersections are bitwise operations.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product

from filmvqa.errors import UserError
from filmvqa.worlds.schema import ATTRIBUTES, RELATIONS, Function, Scene

#: The thirteen functions that end a CLEVR program, in the order of ``types`` in question files.
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
#: Functions that end programs of sets made with CLEVR's generator: CLEVR-Math's, and one that the
#: generator has without using it. Their questions have none of the five types.
OTHER_ANSWER_FUNCTIONS = ("addition", "subtraction", "equal_object")
ANSWERING = frozenset(ANSWER_FUNCTIONS + OTHER_ANSWER_FUNCTIONS)
#: The five question types, in the order of Table 1 of the FiLM paper, and their last functions.
QUESTION_TYPES: dict[str, tuple[str, ...]] = {
    "count": ANSWER_FUNCTIONS[0:1],
    "exist": ANSWER_FUNCTIONS[1:2],
    "compare integer": ANSWER_FUNCTIONS[2:5],
    "query attribute": ANSWER_FUNCTIONS[5:9],
    "compare attribute": ANSWER_FUNCTIONS[9:13],
}
#: A combination of attribute values: a value or None for each of ``ATTRIBUTES``, in their order.
Filter = tuple[str | None, str | None, str | None, str | None]
NO_FILTER: Filter = (None, None, None, None)
#: Output of a step: a set (bits), an object's index or a number (int), a bool or a value (str).
Value = int | bool | str
#: Input types and output type of each function: "set", "object", "number", "boolean", or the name
#: of an attribute for its values.
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
    """Return the question type of a program that ends in ``last_function``.

    Raises
    ------
    UserError
        If no CLEVR program ends in this function.
    """
    for name, functions in QUESTION_TYPES.items():
        if last_function in functions:
            return name
    raise UserError(f"no CLEVR program ends in {last_function!r}")


class NotUniqueError(Exception):
    """The input of ``unique`` is not a set of one object: the question is invalid on this scene."""


class SceneIndex:
    """Sets of a scene's objects, computed once for all programs.

    Attributes
    ----------
    all_objects
        The set of all objects.
    attributes
        ``attributes[i]`` is the tuple of object i's values, in the order of ``ATTRIBUTES``.
    matching
        ``matching[f]`` is the set of objects that match filter f. Filters that match no object
        are not in it.
    related
        ``related[r][i]`` is the set of objects in relation r to object i.
    same
        ``same[a][i]`` is the set of other objects with object i's value of attribute a.
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
        """Return the set of objects whose attribute has the value."""
        key: list[str | None] = [None] * len(ATTRIBUTES)
        key[list(ATTRIBUTES).index(attribute)] = value
        return self.matching.get((key[0], key[1], key[2], key[3]), 0)

    def apply(self, function: str, inputs: Sequence[Value], value: str | None) -> Value:
        """Apply one function of a program to the outputs of earlier steps.

        Raises
        ------
        NotUniqueError
            If the input of ``unique`` is not a set of one object.
        UserError
            If CLEVR has no such function.
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
    """Return the output of every step of a program; the last one is the answer.

    Raises
    ------
    NotUniqueError
        If the input of ``unique`` is not a set of one object.
    UserError
        If the program has an unknown function.
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

    ``inputs[i]`` are the indices of the inputs of step i: earlier steps in all of the list, or, in
    a list that begins with the answer, later ones.

    Raises
    ------
    ValueError
        If an input is neither.
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


def answering_step(functions: Sequence[str], inputs: Sequence[Sequence[int]]) -> int:
    """The step that gives a program's answer, in whichever order its steps are listed: the only one
    that no other uses, or, of several such, the last one in the list if its function can answer,
    else the only one that can.

    Raises
    ------
    ValueError
        If that is none or several, or for inputs that ``last_steps`` refuses.
    """
    ends = last_steps(inputs)
    if len(ends) == 1:
        return ends[0]
    answering = [i for i in ends if functions[i] in ANSWERING]
    if answering and (len(answering) == 1 or answering[-1] == len(inputs) - 1):
        return answering[-1]
    raise ValueError(f"its program does not tell which of its steps gives the answer: {ends}")


def prefix_order(inputs: Sequence[Sequence[int]], last: int) -> list[int]:
    """Return the steps of a program in prefix order: each step before its inputs, as in clevr-iep.

    ``inputs`` are such as ``last_steps`` accepts, and ``last`` is the step that gives the answer. A
    step that is the input of two steps is listed twice.

    Raises
    ------
    ValueError
        If steps are shared so often that the list is longer than 16 times the number of steps.
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
