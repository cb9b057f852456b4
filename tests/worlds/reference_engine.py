"""A second engine for programs, after the definitions in the CLEVR paper: lists of decoded JSON.

It is independent of the package's engine, and of the relations and positions in scenes: it computes
CLEVR's relations from coordinates and directions, and those of sounds from onsets.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

from filmvqa.worlds.engine.schema import Question, encode_json

MARGIN = 0.2
ORDINALS = [
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
]  # fmt: skip


def answer(program: list[dict[str, Any]], scene: dict[str, Any]) -> str | None:
    """The answer of a program about a scene of CLEVR, as CLEVR writes it; None if it asks for a
    unique object and there is none."""
    return _as_text(outputs(program, scene))


def outputs(program: list[dict[str, Any]], scene: dict[str, Any]) -> list[Any] | None:
    """The output of each step of a program about a scene of CLEVR: an object is its index, and a
    set a list of indices. None as from ``answer``."""
    objects = scene["objects"]

    def is_related(other: int, anchor: int, relation: str) -> bool:
        ends = zip(objects[anchor]["3d_coords"], objects[other]["3d_coords"],
                   scene["directions"][relation], strict=True)  # fmt: skip
        return sum((y - x) * d for x, y, d in ends) > MARGIN

    return _outputs(program, len(objects), lambda i, name: objects[i][name], is_related)


def check_answers(questions: Sequence[Question], scenes: Sequence[Any]) -> None:
    """Compare the answers of questions about scenes of CLEVR, or of sounds, with this engine's."""
    by_image = {scene.image_index: json.loads(encode_json(scene)) for scene in scenes}
    assert questions
    for question in questions:
        record, scene = json.loads(encode_json(question)), by_image[question.image_index]
        if "directions" in scene:
            expected = answer(record["program"], scene)
        else:
            expected = answer_about_sounds(record["program"], scene["objects"])
        assert record["answer"] == expected, record


def answer_about_sounds(program: list[dict[str, Any]], sounds: list[dict[str, Any]]) -> str | None:
    """The answer of a program about sounds; None if it asks for a unique sound and there is
    none."""
    in_order = sorted(sounds, key=lambda sound: sound["onset"])

    def value_of(i: int, name: str) -> str:
        return ORDINALS[i] if name == "position" else in_order[i][name]

    def is_related(other: int, anchor: int, relation: str) -> bool:
        return other < anchor if relation == "before" else other > anchor

    return _as_text(_outputs(program, len(in_order), value_of, is_related))


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
                value = value_of(inputs[0], attribute)
                equal = [i for i in range(count) if value_of(i, attribute) == value]
                return [i for i in equal if i != inputs[0]]
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


def _as_text(done: list[Any] | None) -> str | None:
    """The last output as CLEVR writes it."""
    if done is None:
        return None
    last = done[-1]
    return {True: "yes", False: "no"}[last] if isinstance(last, bool) else str(last)
