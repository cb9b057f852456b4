"""A second engine for programs, after the definitions in the CLEVR paper: lists of decoded JSON.

It is independent of ``filmvqa.worlds``, and of the relations and positions that scenes list: it
takes CLEVR's relations from coordinates and directions, those of sounds from the onsets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

MARGIN = 0.2
ORDINALS = [
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
]  # fmt: skip


def answer(program: list[dict[str, Any]], scene: dict[str, Any]) -> str | None:
    """The answer of a program about a scene of CLEVR, as CLEVR writes it; None if it asks for an
    object that is not there, or not alone."""
    return _said(outputs(program, scene))


def outputs(program: list[dict[str, Any]], scene: dict[str, Any]) -> list[Any] | None:
    """What each step of a program about a scene of CLEVR gives: objects as their numbers, sets as
    lists of them. None as of ``answer``."""
    objects = scene["objects"]

    def is_related(other: int, anchor: int, relation: str) -> bool:
        ends = zip(objects[anchor]["3d_coords"], objects[other]["3d_coords"],
                   scene["directions"][relation], strict=True)  # fmt: skip
        return sum((y - x) * d for x, y, d in ends) > MARGIN

    return _outputs(program, len(objects), lambda i, name: objects[i][name], is_related)


def answer_about_sounds(program: list[dict[str, Any]], sounds: list[dict[str, Any]]) -> str | None:
    """The answer of a program about sounds; None if it asks for a sound that is not there, or not
    alone."""
    in_order = sorted(sounds, key=lambda sound: sound["onset"])

    def value_of(i: int, name: str) -> str:
        return ORDINALS[i] if name == "position" else in_order[i][name]

    def is_related(other: int, anchor: int, relation: str) -> bool:
        return other < anchor if relation == "before" else other > anchor

    return _said(_outputs(program, len(in_order), value_of, is_related))


def _outputs(
    program: list[dict[str, Any]],
    count: int,
    value_of: Callable[[int, str], str],
    is_related: Callable[[int, int, str], bool],
) -> list[Any] | None:
    def do(name: str, inputs: list[Any], values: list[str]) -> Any:
        verb, _, attribute = name.partition("_")
        match verb:
            case "scene":
                return list(range(count))
            case "unique":
                return inputs[0][0] if len(inputs[0]) == 1 else None
            case "first" | "last":
                return None if len(inputs[0]) < 2 else inputs[0][0 if verb == "first" else -1]
            case "relate":
                return [i for i in range(count) if is_related(i, inputs[0], values[0])]
            case "same":
                wanted = value_of(inputs[0], attribute)
                alike = [i for i in range(count) if value_of(i, attribute) == wanted]
                return [i for i in alike if i != inputs[0]]
            case "filter":
                return [i for i in inputs[0] if value_of(i, attribute) == values[0]]
            case "query":
                return value_of(inputs[0], attribute)
            case "count":
                return len(inputs[0])
            case "exist":
                return len(inputs[0]) > 0
            case "union":
                return sorted({*inputs[0], *inputs[1]})
            case "intersect":
                return [i for i in inputs[0] if i in inputs[1]]
            case "less":
                return inputs[0] < inputs[1]
            case "greater":
                return inputs[0] > inputs[1]
            case "equal":
                return inputs[0] == inputs[1]
        raise AssertionError(name)

    done: list[Any] = []
    for step in program:
        inputs = [done[i] for i in step["inputs"]]
        if any(value is None for value in inputs):
            return None
        done.append(do(step["function"], inputs, step.get("value_inputs", [])))
    return None if done[-1] is None else done


def _said(done: list[Any] | None) -> str | None:
    """The last output as CLEVR writes it."""
    if done is None:
        return None
    last = done[-1]
    return {True: "yes", False: "no"}[last] if isinstance(last, bool) else str(last)
