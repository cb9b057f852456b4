"""Question templates in the official generator's JSON format, and the families that they make."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cached_property
from importlib.resources import files
from pathlib import Path

import msgspec

from filmvqa.clevr.programs import INPUTS
from filmvqa.clevr.schema import ATTRIBUTES, RELATIONS, decode_json
from filmvqa.errors import UserError

#: Values that a parameter of each type may take.
DOMAINS = {name.capitalize(): values for name, values in ATTRIBUTES.items()}
DOMAINS["Relation"] = RELATIONS
#: Node types that stand for several functions.
COMPOSITE = re.compile(r"(relate_)?filter(_unique|_count|_exist)?$")


class Parameter(msgspec.Struct):
    name: str
    type: str


class Node(msgspec.Struct):
    type: str
    inputs: list[int] = []
    side_inputs: list[str] = []


class Constraint(msgspec.Struct):
    type: str
    params: list[str | int]


class Template(msgspec.Struct, dict=True):
    """One question family: its parameters, wordings, program with composite nodes, constraints."""

    params: list[Parameter]
    text: list[str]
    nodes: list[Node]
    constraints: list[Constraint] = []

    def check(self, place: str) -> None:
        """Raise ``UserError`` for a node, parameter or constraint that makes no sense."""
        types = {p.name: p.type for p in self.params}
        problem = None
        for i, node in enumerate(self.nodes):
            if not (COMPOSITE.match(node.type) or node.type in INPUTS):
                problem = f"node {i} has the unknown type {node.type!r}"
            elif len(node.inputs) != INPUTS.get(node.type, 1):
                problem = f"node {i} ({node.type}) has {len(node.inputs)} inputs"
            elif any(not 0 <= j < i for j in node.inputs):
                problem = f"node {i} reads a node that does not stand before it"
            elif any(types.get(name) not in DOMAINS for name in node.side_inputs):
                problem = f"node {i} uses a parameter that params does not give a known type"
            elif COMPOSITE.match(node.type):
                kinds = [types[name].lower() for name in node.side_inputs]
                expected = ["relation"] * node.type.startswith("relate") + list(ATTRIBUTES)
                if kinds != expected:
                    problem = f"node {i} ({node.type}) needs the side inputs {expected}"
        for constraint in self.constraints:
            if constraint.type not in ("NULL", "NEQ", "OUT_NEQ"):
                problem = f"unknown constraint {constraint.type!r}"
        if not self.text or not self.nodes:
            problem = "no text or no nodes"
        if problem:
            raise UserError(f"{place}: {problem}; mend the template")

    @cached_property
    def nulls(self) -> frozenset[str]:
        """Parameters that must stay unnamed."""
        return frozenset(str(c.params[0]) for c in self.constraints if c.type == "NULL")

    @cached_property
    def equal(self) -> list[tuple[str, str]]:
        # The official generator drops an instance whose two values differ, whatever the
        # constraint's name suggests; its own templates do not use it.
        return [(str(c.params[0]), str(c.params[1])) for c in self.constraints if c.type == "NEQ"]

    @cached_property
    def outputs_differ(self) -> list[tuple[int, int]]:
        """Pairs of nodes whose outputs must differ."""
        pairs = ((c.params[0], c.params[1]) for c in self.constraints if c.type == "OUT_NEQ")
        return [(int(i), int(j)) for i, j in pairs]

    @cached_property
    def has_relate(self) -> bool:
        return any(node.type == "relate" for node in self.nodes)

    @cached_property
    def possible_answers(self) -> list[str]:
        """Every answer that the last function can give."""
        last = self.nodes[-1].type
        kind, _, attribute = last.partition("_")
        if kind == "query":
            return list(ATTRIBUTES[attribute])
        if last.endswith("count"):
            return [str(n) for n in range(11)]
        return ["yes", "no"]


class Family(msgspec.Struct):
    """A template with its number, 0 to 89 for the shipped ones, and its group."""

    index: int
    group: str
    template: Template


def read_families(
    folder: str | Path | None = None, chosen: Sequence[str | int] | None = None
) -> list[Family]:
    """The families of a folder of template files, numbered in the order of file names.

    Parameters
    ----------
    folder
        Where the JSON files lie; None takes the shipped ones.
    chosen
        Groups (file names without ``.json``) and single families (numbers) to keep; None keeps
        all. Numbers stay the same.
    """
    source = files("filmvqa.clevr") / "templates" if folder is None else Path(folder)
    if not source.is_dir():
        raise UserError(f"{source}: no such folder; templates=<folder> needs template JSON files")
    paths = sorted((p for p in source.iterdir() if p.name.endswith(".json")), key=lambda p: p.name)
    families: list[Family] = []
    known = []
    for path in paths:
        group = path.name.removesuffix(".json")
        known.append(group)
        for k, template in enumerate(
            decode_json(path.read_bytes(), list[Template], str(path), "mend the template")
        ):
            template.check(f"{path}: template {k}")
            families.append(Family(len(families), group, template))
    if not families:
        raise UserError(f"{source}: no template files (*.json) in it")
    if chosen is None:
        return families
    unknown = [c for c in chosen if c not in known and c not in range(len(families))]
    if unknown:
        raise UserError(
            f"{source}: has no question families {unknown}; choose from the groups {known} and "
            f"the numbers 0 to {len(families) - 1}"
        )
    return [family for family in families if family.group in chosen or family.index in chosen]
