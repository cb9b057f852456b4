"""Short constructors of scene objects and programs, and their JSON form."""

from __future__ import annotations

import json
from typing import Any

from filmvqa.worlds.clevr.scene_file import SceneObject
from filmvqa.worlds.engine.schema import Function, encode_json


def make_object(
    shape: str, color: str, size: str = "large", material: str = "metal"
) -> SceneObject:
    return SceneObject(color, size, 0.0, shape, material, (0.0, 0.0, 0.7), (0.0, 0.0, 9.0))


def make_program(*steps: tuple) -> list[Function]:
    """A program of steps (function, inputs, value inputs)."""
    return [Function(name, list(inputs), list(values)) for name, inputs, values in steps]


def to_json(record: object) -> Any:
    """Return a record as decoded JSON."""
    return json.loads(encode_json(record))


def without_relation(program: list[dict], step: int) -> list[dict]:
    """Replace a ``relate`` step of a decoded program by the set of all objects."""
    changed = list(program)
    changed[step] = {"function": "scene", "inputs": [], "value_inputs": []}
    return changed


def end_of_filters(program: list[dict], start: int) -> int:
    """Return the last of the filter steps that directly follow step ``start``, or ``start``."""
    end = start
    while end + 1 < len(program) and program[end + 1]["function"].startswith("filter"):
        end += 1
    return end
