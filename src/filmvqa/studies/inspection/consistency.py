"""Whether answers agree with each other: a comparison of two numbers with the counts it compares.

The FiLM paper found that its network sometimes counts both sets correctly and
compares them wrongly.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from filmvqa.worlds.engine.schema import Function

#: Words of relations between "are" and "the", and of the comparisons.
_RELATIONS = {
    "left": "left of", "right": "right of", "behind": "behind", "front": "in front of",
}  # fmt: skip
_COMPARISONS = {
    "equal_integer": lambda a, b: a == b,
    "less_than": lambda a, b: a < b,
    "greater_than": lambda a, b: a > b,
}
#: The order of attributes in a noun phrase, before the noun.
_ADJECTIVES = ("size", "color", "material")


@dataclass(frozen=True)
class Comparison:
    """A comparison, and the questions how many objects each of its two sets has."""

    function: str
    counts: tuple[str, str]

    def implied(self, first: int, second: int) -> str:
        """The answer that two counts imply."""
        return "yes" if _COMPARISONS[self.function](first, second) else "no"


def comparison_of(program: Sequence[Function]) -> Comparison | None:
    """The comparison that a program is; None if it is none, or if its sets are not chains of
    filters and spatial relations, for which there are words."""
    last = program[-1]
    if last.function not in _COMPARISONS:
        return None
    texts = []
    for step in last.inputs:
        count = program[step]
        if count.function != "count":
            return None
        text = _count_question(program, count.inputs[0])
        if text is None:
            return None
        texts.append(text)
    return Comparison(last.function, (texts[0], texts[1]))


def _count_question(program: Sequence[Function], step: int) -> str | None:
    """How many objects the set of a step has, as a question."""
    values, base = _filters(program, step)
    noun = _noun(values, plural=True)
    if program[base].function == "scene":
        return f"How many {noun} are there?"
    place = _place(program, base)
    return None if place is None else f"How many {noun} are {place}?"


def _place(program: Sequence[Function], step: int) -> str | None:
    """The words for ``relate``, such as "left of the red cube"."""
    relate = program[step]
    if relate.function != "relate":
        return None
    unique = program[relate.inputs[0]]
    if unique.function != "unique":
        return None
    values, base = _filters(program, unique.inputs[0])
    words = f"{_RELATIONS[relate.value_inputs[0]]} the {_noun(values)}"
    if program[base].function == "scene":
        return words
    place = _place(program, base)
    return None if place is None else f"{words} that is {place}"


def _filters(program: Sequence[Function], step: int) -> tuple[dict[str, str], int]:
    """The attribute values that a chain of filters asks for, and the step before it."""
    values: dict[str, str] = {}
    while program[step].function.startswith("filter_"):
        values[program[step].function.removeprefix("filter_")] = program[step].value_inputs[0]
        step = program[step].inputs[0]
    return values, step


def _noun(values: dict[str, str], *, plural: bool = False) -> str:
    words = [values[name] for name in _ADJECTIVES if name in values]
    return " ".join([*words, values.get("shape", "thing") + ("s" if plural else "")])
