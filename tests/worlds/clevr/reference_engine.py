"""A reference implementation of CLEVR programs, after the definitions in the CLEVR paper.

It is independent of ``filmvqa.worlds.engine.programs``: it reads decoded JSON, represents sets as lists,
and computes relations from coordinates and directions.
"""

from __future__ import annotations

from typing import Any

MARGIN = 0.2


def answer(program: list[dict[str, Any]], scene: dict[str, Any]) -> str | None:
    """Return the answer as CLEVR writes it, or None if a ``unique`` fails."""
    all_objects = list(range(len(scene["objects"])))
    values: list[Any] = []
    for step in program:
        name, arguments = step["function"], [values[i] for i in step["inputs"]]
        value_inputs = step["value_inputs"]
        if name == "scene":
            values.append(all_objects)
        elif name.startswith("filter_"):
            attribute = name[len("filter_") :]
            matching = [
                o for o in arguments[0] if scene["objects"][o][attribute] == value_inputs[0]
            ]
            values.append(matching)
        elif name == "unique":
            if len(arguments[0]) != 1:
                return None
            values.append(arguments[0][0])
        elif name == "relate":
            values.append(
                [o for o in all_objects if _is_related(scene, o, value_inputs[0], arguments[0])]
            )
        elif name.startswith("same_"):
            attribute = name[len("same_") :]
            value = scene["objects"][arguments[0]][attribute]
            values.append(
                [
                    o
                    for o in all_objects
                    if o != arguments[0] and scene["objects"][o][attribute] == value
                ]
            )
        elif name.startswith("query_"):
            values.append(scene["objects"][arguments[0]][name[len("query_") :]])
        elif name == "count":
            values.append(len(arguments[0]))
        elif name == "exist":
            values.append(len(arguments[0]) > 0)
        elif name == "union":
            values.append(sorted(set(arguments[0]) | set(arguments[1])))
        elif name == "intersect":
            values.append(sorted(set(arguments[0]) & set(arguments[1])))
        elif name == "less_than":
            values.append(arguments[0] < arguments[1])
        elif name == "greater_than":
            values.append(arguments[0] > arguments[1])
        elif name.startswith("equal_"):
            values.append(arguments[0] == arguments[1])
        else:
            raise AssertionError(name)
    last = values[-1]
    return {True: "yes", False: "no"}[last] if isinstance(last, bool) else str(last)


def _is_related(scene: dict[str, Any], other: int, relation: str, anchor: int) -> bool:
    a, b = scene["objects"][anchor]["3d_coords"], scene["objects"][other]["3d_coords"]
    direction = scene["directions"][relation]
    return sum((y - x) * d for x, y, d in zip(a, b, direction, strict=True)) > MARGIN
