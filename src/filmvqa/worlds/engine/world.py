"""A world: its attributes, values, relations and functions, read from a ``metadata.json``.

The format is that of CLEVR's official generator (``question_generation/metadata.json``): types with
their values, and functions with ``inputs``, ``side_inputs``, ``output`` and ``terminal``. Further
keys, which are optional, are this package's: synonyms, the general noun, groups of families.
"""

from __future__ import annotations

import re
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path

import msgspec

from filmvqa.system.errors import UserError
from filmvqa.system.files import read_bytes
from filmvqa.worlds.engine.schema import CORRECT, decode_json

#: This package's names of the types that have no values.
_STRUCTURAL = {"Object": "object", "ObjectSet": "set", "Integer": "number", "Bool": "boolean"}
#: Operations on an attribute; the function's name ends in it: ``query_shape``.
_ON_ATTRIBUTES = ("filter", "query", "same", "equal")
#: The engine's other functions.
_OPERATIONS = {
    "scene", "unique", "relate", "union", "intersect", "count", "exist", "equal_integer",
    "less_than", "greater_than", "equal_object", "first", "last",
}  # fmt: skip
#: Nodes of templates that expand to several functions.
COMPOSITE_NODE = re.compile(r"(relate_)?filter(_unique|_count|_exist)?$")


class FunctionType(msgspec.Struct, frozen=True):
    """The types of a function's inputs, side inputs (values in the program) and output.

    A ``terminal`` function can end a program. A ``template_only`` function is a composite node.
    """

    name: str
    output: str
    inputs: tuple[str, ...] = ()
    side_inputs: tuple[str, ...] = ()
    terminal: bool = False
    template_only: bool = False


class World(msgspec.Struct, frozen=True, dict=True):
    """The metadata of a world.

    Attributes
    ----------
    types
        The values of each type, and None for types without values.
    all_functions
        The functions, including composite nodes.
    name
        The name of the world's folder in this package, or the path of its metadata file.
    dataset
        The data set's name in the metadata.
    listed_question_types
        The functions that end a program, by question type; None selects those of the FiLM paper.
    listed_other_answers
        Functions that end programs without a question type.
    synonyms
        Words for values and relations; a value without synonyms stands for itself.
    noun, listed_noun_type
        The noun for an object without a described value of the type ``listed_noun_type`` (None
        selects the last of ``filter_types``).
    words_after_an
        Words before which ``a`` in a template becomes ``an``.
    family_groups
        The template files in the order in which their families are numbered, and the number of
        families in each.
    largest_count
        The largest number over which answers are balanced.
    """

    types: dict[str, tuple[str, ...] | None]
    all_functions: list[FunctionType] = msgspec.field(name="functions")
    name: str = ""
    dataset: str = ""
    listed_question_types: dict[str, tuple[str, ...]] | None = msgspec.field(
        name="question_types", default=None
    )
    listed_other_answers: tuple[str, ...] = msgspec.field(name="other_answers", default=())
    synonyms: dict[str, tuple[str, ...]] = {}
    noun: str = "thing"
    listed_noun_type: str | None = msgspec.field(name="noun_type", default=None)
    words_after_an: tuple[str, ...] = ()
    family_groups: dict[str, int] = {}
    largest_count: int = 10

    @cached_property
    def domains(self) -> dict[str, tuple[str, ...]]:
        """The values of each type that has values, ``Relation`` included, by the type's name."""
        return {name: values for name, values in self.types.items() if values}

    @cached_property
    def filter_types(self) -> list[str]:
        """The types of a composite node's side inputs, without the relation."""
        for function in self.all_functions:
            if function.name == "filter" and function.template_only:
                return list(function.side_inputs)
        return self._filterable

    @property
    def _filterable(self) -> list[str]:
        names = {function.name for function in self.all_functions}
        return [name for name in self.domains if f"filter_{name.lower()}" in names]

    @cached_property
    def filter_attributes(self) -> tuple[str, ...]:
        """The attributes of composite nodes, in the order of their side inputs."""
        return tuple(name.lower() for name in self.filter_types)

    @cached_property
    def attributes(self) -> dict[str, tuple[str, ...]]:
        """The values of each attribute that can be filtered, by its name, which is the type's in
        lower case; those of composite nodes come first."""
        ordered = dict.fromkeys([*self.filter_types, *self._filterable])
        return {name.lower(): self.domains[name] for name in ordered}

    @cached_property
    def functions(self) -> dict[str, FunctionType]:
        """The functions of programs, by name, with types named as in ``signature``."""
        return {
            f.name: msgspec.structs.replace(
                f, inputs=tuple(map(_type_name, f.inputs)), output=_type_name(f.output)
            )
            for f in self.all_functions
            if not f.template_only
        }

    @cached_property
    def question_types(self) -> dict[str, tuple[str, ...]]:
        """The functions that end a program, by question type; the default types are the five of
        Table 1 of the FiLM paper."""
        if self.listed_question_types:
            return self.listed_question_types
        types = {
            "count": ["count"],
            "exist": ["exist"],
            "compare integer": ["equal_integer", "less_than", "greater_than"],
            "query attribute": [f"query_{name}" for name in self.attributes],
            "compare attribute": [f"equal_{name}" for name in self.attributes],
        }
        terminal = {f.name for f in self.all_functions if f.terminal}
        return {name: tuple(f for f in names if f in terminal) for name, names in types.items()}

    @property
    def noun_type(self) -> str | None:
        return self.listed_noun_type or (self.filter_types[-1] if self.filter_types else None)

    @property
    def relations(self) -> tuple[str, ...]:
        return self.domains.get("Relation", ())

    @cached_property
    def answer_functions(self) -> tuple[str, ...]:
        """The functions that end a program with a question type; ``types`` in question files are
        indices into them."""
        return tuple(name for names in self.question_types.values() for name in names)

    @cached_property
    def type_names(self) -> tuple[str, ...]:
        """All functions that end a program; those with a question type come first."""
        others = [name for name, f in self.functions.items() if f.terminal]
        return tuple(dict.fromkeys([*self.answer_functions, *self.listed_other_answers, *others]))

    @cached_property
    def referring_functions(self) -> tuple[str, ...]:
        """The functions that give objects, and so can end the program of a referring expression."""
        return tuple(n for n, f in self.functions.items() if f.output in ("set", "object"))

    def signature(self, function: str) -> tuple[tuple[str, ...], str]:
        """Input types and output type of a function: ``set``, ``object``, ``number``, ``boolean``,
        or the name of an attribute for its values."""
        entry = self.functions[function]
        return entry.inputs, entry.output

    def question_type(self, last_function: str) -> str:
        """The question type of a program that ends in ``last_function``.

        Raises
        ------
        UserError
            If no program with a question type ends in this function.
        """
        for name, functions in self.question_types.items():
            if last_function in functions:
                return name
        raise UserError(f"no {self.dataset or self.name} program ends in {last_function!r}")

    @property
    def templates(self) -> Path:
        """The folder of the world's question templates in this package."""
        return _folder(self.name) / "templates"


def _folder(name: str) -> Path:
    return Path(str(files("filmvqa.worlds"))) / name


def read_world(source: str | Path) -> World:
    """Read a world of this package by its name, or a metadata file by its path.

    Raises
    ------
    UserError
        If the world or file does not exist, or the metadata are invalid: a type that a function
        needs has no values, or the engine does not know a function.
    """
    name = str(source)
    path = Path(source) if name.endswith(".json") else _folder(name) / "metadata.json"
    if not name.endswith(".json") and not path.is_file():
        raise UserError(f"{name!r} is not a world; give clevr, sound or a metadata.json")
    return _decode_world(name, path, read_bytes(path, "give the metadata of a world"))


@cache
def _decode_world(name: str, path: Path, content: bytes) -> World:
    """The content is part of the cache's key, since the file may change."""
    world = msgspec.structs.replace(decode_json(content, World, path, CORRECT), name=name)
    if problem := _find_problem(world):
        raise UserError(f"{path}: {problem}; {CORRECT}")
    return world


def _find_problem(world: World) -> str | None:
    names = [function.name for function in world.all_functions]
    if len(set(names)) < len(names):
        return f"two functions are called {max(names, key=names.count)!r}"
    lowered = {name.lower() for name in world.domains}
    for function in world.all_functions:
        for name in (*function.inputs, *function.side_inputs, function.output):
            if name not in world.types:
                return f"{function.name!r} has the type {name!r}, which types does not list"
        if bad := [name for name in function.side_inputs if name not in world.domains]:
            return f"{function.name!r} has the side input {bad[0]!r}, which has no values"
        if function.template_only:
            if not COMPOSITE_NODE.match(function.name):
                return f"{function.name!r} is not a known composite node"
            continue
        operation, _, attribute = function.name.partition("_")
        on_attribute = operation in _ON_ATTRIBUTES and attribute in lowered
        if function.name not in _OPERATIONS and not on_attribute:
            return f"{function.name!r} is not a known function"
    ending = {*names, *world.listed_other_answers}
    for functions in (world.listed_question_types or {}).values():
        if unknown := [name for name in functions if name not in ending]:
            return f"question_types has {unknown[0]!r}, which is not a function"
    return None


def _type_name(name: str) -> str:
    return _STRUCTURAL.get(name, name.lower())


CLEVR = read_world("clevr")
