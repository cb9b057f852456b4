"""A second engine for programs about sounds, after their definitions: lists of decoded JSON.

It is independent of ``filmvqa.worlds``, and of the relations and positions that scenes list: it
takes both from the onsets.
"""

from __future__ import annotations

from typing import Any

ORDINALS = [
    "first", "second", "third", "fourth", "fifth", "sixth", "seventh", "eighth", "ninth", "tenth",
]  # fmt: skip


def answer(program: list[dict[str, Any]], sounds: list[dict[str, Any]]) -> str | None:
    """The answer of a program; None if it asks for a sound that is not there, or not alone."""
    in_order = sorted(sounds, key=lambda sound: sound["onset"])
    done: list[Any] = []
    for step in program:
        inputs = [done[i] for i in step["inputs"]]
        if any(value is None for value in inputs):
            return None
        done.append(_step(step["function"], inputs, step.get("value_inputs", []), in_order))
    if done[-1] is None:
        return None
    if isinstance(done[-1], bool):
        return "yes" if done[-1] else "no"
    return str(done[-1])


def _step(name: str, inputs: list[Any], values: list[str], sounds: list[dict[str, Any]]) -> Any:
    def value_of(sound: dict[str, Any], attribute: str) -> str:
        if attribute == "position":
            return ORDINALS[sounds.index(sound)]
        return sound[attribute]

    verb, _, attribute = name.partition("_")
    match verb:
        case "scene":
            return sounds
        case "unique":
            return inputs[0][0] if len(inputs[0]) == 1 else None
        case "first" | "last":
            found = [sound for sound in sounds if sound in inputs[0]]
            return None if len(found) < 2 else found[0 if verb == "first" else -1]
        case "relate":
            earlier = values[0] == "before"
            return [
                sound for sound in sounds
                if sound is not inputs[0] and (sound["onset"] < inputs[0]["onset"]) == earlier
            ]  # fmt: skip
        case "filter":
            return [sound for sound in inputs[0] if value_of(sound, attribute) == values[0]]
        case "query":
            return value_of(inputs[0], attribute)
        case "count":
            return len(inputs[0])
        case "exist":
            return len(inputs[0]) > 0
        case "less":
            return inputs[0] < inputs[1]
        case "greater":
            return inputs[0] > inputs[1]
        case "equal":
            return inputs[0] == inputs[1]
    raise AssertionError(name)
