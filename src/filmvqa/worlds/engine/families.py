"""Question families, read from templates in the JSON format of CLEVR's official generator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path

import msgspec

from filmvqa.system.errors import UserError
from filmvqa.worlds.engine.programs import (
    NUMBERS_REFERRED,
    Filter,
    SceneIndex,
    Value,
    answer_text,
)
from filmvqa.worlds.engine.schema import Function, decode_json
from filmvqa.worlds.engine.world import CLEVR, COMPOSITE_NODE, World

#: Folder of a world's templates of referring expressions.
REFERRING = "referring"
#: Folder of a world's templates that combine words in ways its questions do not (CLOSURE).
CLOSURE = "closure"


class Parameter(msgspec.Struct):
    """A placeholder of a template, such as ``<Z>``, and the type of its values."""

    name: str
    type: str


class Node(msgspec.Struct, dict=True):
    """A node of a template's program: a function, or a composite node.

    ``inputs`` are indices of earlier nodes, ``side_inputs`` names of parameters.
    """

    type: str
    inputs: list[int] = []
    side_inputs: list[str] = []

    @cached_property
    def is_composite(self) -> bool:
        return COMPOSITE_NODE.match(self.type) is not None

    @cached_property
    def is_relate(self) -> bool:
        """Whether the node is a relation, or a composite node that begins with one."""
        return self.type.startswith("relate")

    @cached_property
    def last_function(self) -> str:
        """The function that gives the node's output: the last one of a composite node."""
        composite = COMPOSITE_NODE.match(self.type)
        return (composite[2] or "_filter")[1:] if composite else self.type

    @cached_property
    def draws_filters(self) -> bool:
        """Whether the search also tries random filters, which may match no object."""
        return self.is_composite and not self.is_relate and self.last_function != "unique"

    @cached_property
    def required_inputs(self) -> list[str]:
        """The side inputs that must have a value; those of filters may be None."""
        return self.side_inputs[: self.is_relate] if self.is_composite else self.side_inputs

    def signature(self, world: World) -> tuple[tuple[str, ...], str]:
        """Input types and output type, as ``World.signature`` gives them."""
        if self.is_composite:
            input_type = "object" if self.is_relate else "set"
            last = self.last_function
            return (input_type,), "set" if last == "filter" else world.signature(last)[1]
        return world.signature(self.type)

    def side_input_types(self, world: World) -> list[str]:
        """Required types of the side inputs."""
        if self.is_composite:
            values = world.filter_types
            return ["Relation", *values] if self.is_relate else values
        return list(world.functions[self.type].side_inputs)

    def steps(self, values: Mapping[str, str | None], world: World) -> list[tuple[str, str | None]]:
        """The functions of the node's steps with their values; each is the input of the next.

        ``values`` has the values of the node's side inputs by name.
        """
        names = self.side_inputs
        if not self.is_composite:
            return [(self.type, values[names[0]] if names else None)]
        steps = [("relate", values[names[0]])] if self.is_relate else []
        named = zip(world.filter_attributes, names[len(steps) :], strict=True)
        steps += [(f"filter_{name}", values[n]) for name, n in named if values[n] is not None]
        return steps if self.last_function == "filter" else [*steps, (self.last_function, None)]

    def apply(
        self,
        scene_index: SceneIndex,
        inputs: Sequence[Value],
        values: Filter,
        ignores_relation: bool = False,
    ) -> Value:
        """Return the node's output, that of its last step, on a scene.

        ``inputs`` are the values of the node's inputs, ``values`` those of its side inputs. If
        ``ignores_relation``, every object counts as related.

        Raises
        ------
        NotUniqueError
            If ``SceneIndex.apply`` raises it.
        """
        if not (self.is_relate or self.is_composite):
            return scene_index.apply(self.type, inputs, values[0] if values else None)
        objects = int(inputs[0])
        if self.is_relate:
            related = scene_index.related[str(values[0])][objects]
            objects = scene_index.all_objects if ignores_relation else related
            values = values[1:]
        if not self.is_composite:
            return objects
        objects &= scene_index.matching.get(values, 0)
        last = self.last_function
        return objects if last == "filter" else scene_index.apply(last, [objects], None)

    def find_problem(
        self, parameter_types: Mapping[str, str], output_types: Sequence[str], world: World
    ) -> str | None:
        """Return what is invalid about the node, or None.

        ``parameter_types`` are the types of the template's parameters, and ``output_types`` the
        types of the earlier nodes' outputs.
        """
        if not (self.is_composite or self.type in world.functions):
            return f"has the unknown type {self.type!r}"
        if any(not 0 <= j < len(output_types) for j in self.inputs):
            return "has an input that is not an earlier node"
        expected, actual = list(self.signature(world)[0]), [output_types[j] for j in self.inputs]
        if expected != actual:
            return f"({self.type}) has inputs of the types {actual}, not {expected}"
        side_types = [parameter_types.get(name) for name in self.side_inputs]
        expected = self.side_input_types(world)
        if side_types != expected:
            return f"({self.type}) has side inputs of the types {side_types}, not {expected}"
        return None


class Constraint(msgspec.Struct):
    """A constraint on a template's parameters or outputs: NULL, NEQ or OUT_NEQ."""

    type: str
    params: list[str | int]

    def find_problem(self, node_count: int) -> str | None:
        """Return what is invalid about the constraint in a template of ``node_count`` nodes."""
        types = {"NULL": [str], "NEQ": [str, str], "OUT_NEQ": [int, int]}.get(self.type)
        if types is None:
            return f"constraint {self.type!r} is unknown"
        if [type(p) for p in self.params] != types or any(
            isinstance(p, int) and not 0 <= p < node_count for p in self.params
        ):
            return f"constraint {self.type} has invalid parameters {self.params}"
        return None


class Template(msgspec.Struct, dict=True):
    """The template of a question family.

    Attributes
    ----------
    params
        Parameters, which occur in the text and as side inputs of nodes.
    text
        Alternative wordings of the question.
    nodes
        The program, in which each node comes after its inputs.
    constraints
        Constraints on parameters and outputs.
    """

    params: list[Parameter]
    text: list[str]
    nodes: list[Node]
    constraints: list[Constraint] = []

    def find_problem(self, world: World, refers: bool) -> str | None:
        """Return what is invalid about a node, parameter or constraint, or None.

        If ``refers``, the program must give objects instead of an answer.
        """
        if not self.text or not self.nodes:
            return "it has no text or no nodes"
        parameter_types = {p.name: p.type for p in self.params}
        if unknown := [p.type for p in self.params if p.type not in world.domains]:
            return f"a parameter has the unknown type {unknown[0]!r}"
        if len(parameter_types) < len(self.params) or "" in parameter_types:
            return "two parameters have the same name, or one has none"
        output_types: list[str] = []
        for i, node in enumerate(self.nodes):
            if problem := node.find_problem(parameter_types, output_types, world):
                return f"node {i} {problem}"
            output_types.append(node.signature(world)[1])
        if refers and not self.refers(world):
            return f"its last node ({self.nodes[-1].type}) does not give objects"
        if not refers and self.nodes[-1].last_function not in world.answer_functions:
            return f"its last node ({self.nodes[-1].type}) does not give an answer"
        problems = (constraint.find_problem(len(self.nodes)) for constraint in self.constraints)
        return next(filter(None, problems), None)

    @cached_property
    def null_parameters(self) -> frozenset[str]:
        """Parameters that must have no value (constraint NULL)."""
        return frozenset(str(c.params[0]) for c in self.constraints if c.type == "NULL")

    @cached_property
    def equal_parameters(self) -> list[tuple[str, str]]:
        """Pairs of parameters whose values must be equal, if both have one (constraint NEQ)."""
        # Despite the constraint's name, the official generator rejects instances whose two values
        # differ. Its own templates do not use the constraint.
        return [(str(c.params[0]), str(c.params[1])) for c in self.constraints if c.type == "NEQ"]

    @cached_property
    def differing_outputs(self) -> list[tuple[int, int]]:
        """Pairs of nodes whose outputs must differ (constraint OUT_NEQ)."""
        pairs = ((c.params[0], c.params[1]) for c in self.constraints if c.type == "OUT_NEQ")
        return [(int(i), int(j)) for i, j in pairs]

    @cached_property
    def excludes_yes(self) -> bool:
        """Whether the answer is always "no", since a constraint makes the two compared outputs
        differ. The release's family 0 is such a template, and is therefore hardly ever asked."""
        last = self.nodes[-1]
        return last.type.startswith("equal_") and any(
            set(pair) == set(last.inputs) for pair in self.differing_outputs
        )

    @cached_property
    def has_relate(self) -> bool:
        return any(node.type == "relate" for node in self.nodes)

    @cached_property
    def null_places(self) -> list[tuple[int, ...]]:
        """For each node, the positions in its filter of the attributes that must have no value."""
        filters = [node.side_inputs[node.is_relate :] for node in self.nodes]
        return [
            tuple(k for k, name in enumerate(names) if name in self.null_parameters)
            for names in filters
        ]

    @cached_property
    def nodes_after_relations(self) -> dict[int, list[int]]:
        """For each relation, the nodes whose outputs depend on it, itself included."""
        after: dict[int, list[int]] = {}
        for k, node in enumerate(self.nodes):
            for affected in after.values():
                if not set(node.inputs).isdisjoint(affected):
                    affected.append(k)
            if node.is_relate:
                after[k] = [k]
        return after

    @cached_property
    def decided_by(self) -> list[str | None]:
        """For each node, what determines whether the search succeeds after a choice of its values.

        ``output``: the node's output alone. ``matching``: the objects that match its filter, since
        the template is also executed without its relations. None: also random filters that are
        drawn later, or parameters that must be equal.
        """
        compared = self.nodes_after_relations if self.has_relate else {}
        causes: list[str | None] = []
        for k, node in enumerate(self.nodes):
            if self.equal_parameters or any(n.draws_filters for n in self.nodes[k + 1 :]):
                causes.append(None)
            elif not any(k in affected for affected in compared.values()):
                causes.append("output")
            else:
                causes.append(None if node.is_relate else "matching")
        return causes

    def program(
        self, values_of_nodes: Iterable[Mapping[str, str | None]], world: World
    ) -> list[Function]:
        """The functional program with these values of each node's side inputs, by name."""
        program: list[Function] = []
        last_steps: list[int] = []
        for node, values in zip(self.nodes, values_of_nodes, strict=False):
            inputs = [last_steps[i] for i in node.inputs]
            for function, value in node.steps(values, world):
                program.append(Function(function, inputs, [] if value is None else [value]))
                inputs = [len(program) - 1]
            last_steps.append(inputs[0])
        return program

    def refers(self, world: World = CLEVR) -> bool:
        """Whether the text is a referring expression: its program gives a set or an object."""
        return self.nodes[-1].signature(world)[1] in ("set", "object")

    def answer(self, output: Value, world: World = CLEVR) -> str:
        """The answer for an output of the last node; for a referring expression, the entry of
        ``NUMBERS_REFERRED`` for the number of objects."""
        output_type = self.nodes[-1].signature(world)[1]
        if output_type not in ("set", "object"):
            return answer_text(output)
        count = 1 if output_type == "object" else int(output).bit_count()
        return NUMBERS_REFERRED[min(count, 2)]

    def possible_answers(self, world: World = CLEVR) -> list[str]:
        """All answers that the last function can give; questions are balanced over them."""
        if self.refers(world):
            is_set = self.nodes[-1].signature(world)[1] == "set"
            return list(NUMBERS_REFERRED) if is_set else ["one"]
        last_type = self.nodes[-1].type
        operation, _, attribute = last_type.partition("_")
        if operation == "query":
            return list(world.attributes[attribute])
        if last_type.endswith("count"):
            return [str(n) for n in range(world.largest_count + 1)]
        return ["yes", "no"]


class Family(msgspec.Struct):
    """A template with its number and its group; CLEVR's numbers are those of the release."""

    index: int
    group: str
    template: Template


def read_families(
    folder: str | Path | None = None,
    selection: Sequence[str | int] | None = None,
    world: World = CLEVR,
) -> list[Family]:
    """Read the families of a folder of template files, numbered file by file.

    Files named in the world's ``family_groups`` come first, in that order (for CLEVR, the
    release's). The other files follow by name.

    Parameters
    ----------
    folder
        Folder of JSON files. None selects the world's question templates in this package,
        ``referring`` its referring expressions, and ``closure`` its CLOSURE tests. Templates in a
        folder called ``referring`` must give objects; templates in other folders, answers.
    selection
        Groups (file names without ``.json``) and numbers of the families to return; None selects
        all families. The selection does not change the families' numbers.

    Raises
    ------
    UserError
        If the folder or a selected family does not exist, or a template is invalid.
    """
    source = world.templates if folder is None else Path(folder)
    if folder in (REFERRING, CLOSURE):
        source = world.templates.with_name(str(folder))
    if not source.is_dir():
        raise UserError(
            f"{source}: no such folder; set templates to a folder of template files (*.json)"
        )
    paths = {p.name.removesuffix(".json"): p for p in source.iterdir() if p.name.endswith(".json")}
    families: list[Family] = []
    groups = [group for group in world.family_groups if group in paths]
    groups += sorted(paths.keys() - world.family_groups.keys())
    for group in groups:
        path = paths[group]
        templates = decode_json(path.read_bytes(), list[Template], path, "correct the template")
        for k, template in enumerate(templates):
            if problem := template.find_problem(world, source.name == REFERRING):
                raise UserError(f"{path}: template {k}: {problem}; correct the template")
            families.append(Family(len(families), group, template))
    if not families:
        raise UserError(f"{source}: no template files (*.json) in this folder; choose another one")
    if selection is None:
        return families
    if unknown := [c for c in selection if c not in groups and c not in range(len(families))]:
        raise UserError(
            f"{source}: unknown question families {unknown}; choose from the groups {groups} and "
            f"the numbers 0 to {len(families) - 1}"
        )
    return [family for family in families if family.group in selection or family.index in selection]
