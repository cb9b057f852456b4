"""A world: its attributes, values, relations and functions, read from a ``metadata.json``.

The format is that of CLEVR's official generator (``question_generation/metadata.json``): types with
their values, and functions with ``inputs``, ``side_inputs``, ``output`` and ``terminal``. What that
file does not tell (synonyms, the noun for a thing, groups of families) are keys of our own, which
it may lack.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache, cached_property
from importlib.resources import files
from pathlib import Path

import msgspec

from filmvqa.system.errors import UserError
from filmvqa.system.files import read_bytes
from filmvqa.worlds.engine.schema import CORRECT, decode_json

#: Names in programs of the types that have no values.
_STRUCTURAL = {"Object": "object", "ObjectSet": "set", "Integer": "number", "Bool": "boolean"}
#: Operations on an attribute, which stands behind them: ``query_shape``.
_ON_ATTRIBUTES = ("filter", "query", "same", "equal")
#: Functions that the engine applies, beside those on an attribute.
_OPERATIONS = {
    "scene", "unique", "relate", "union", "intersect", "count", "exist", "equal_integer",
    "less_than", "greater_than", "equal_object", "first", "last",
}  # fmt: skip
#: Nodes of templates that expand to several functions.
COMPOSITE_NODE = re.compile(r"(relate_)?filter(_unique|_count|_exist)?$")


class FunctionType(msgspec.Struct, frozen=True):
    """A function: the types of its inputs, of its side inputs (values in the program), and of its
    output; a ``terminal`` one can end a program, a ``template_only`` one is a composite node."""

    name: str
    output: str
    inputs: tuple[str, ...] = ()
    side_inputs: tuple[str, ...] = ()
    terminal: bool = False
    template_only: bool = False


class _Metadata(msgspec.Struct):
    types: dict[str, tuple[str, ...] | None]
    functions: list[FunctionType]
    dataset: str = ""
    question_types: dict[str, tuple[str, ...]] | None = None
    other_answers: tuple[str, ...] = ()
    synonyms: dict[str, tuple[str, ...]] = {}
    noun: str = "thing"
    noun_type: str | None = None
    words_after_an: tuple[str, ...] = ()
    family_groups: dict[str, int] = {}
    largest_count: int = 10


@dataclass(frozen=True)
class World:
    """A world's metadata.

    Attributes
    ----------
    name
        That of its folder in this package; of a file, its path.
    dataset
        What the metadata calls the data set.
    domains
        The values of each type that has values, ``Relation`` included, by the type's name.
    attributes
        The values of each attribute, by its name (the type's in small letters): of those that can
        be filtered, with those of composite nodes first, in the order of their side inputs.
    filter_attributes
        The attributes of composite nodes, in the order of their side inputs.
    functions
        The functions of programs, by name; types in the words of ``signature``.
    question_types
        The functions that end a program, by type of question.
    other_answers
        Functions that end programs whose questions have none of these types.
    synonyms
        Words for values and relations; a value that is not listed stands for itself.
    noun, noun_type
        What stands for a thing of which nothing is said that is a noun, and the type of the
        parameter that is the noun.
    words_after_an
        Words that follow ``an`` although a template has ``a``.
    family_groups
        The files of templates in the order in which families are numbered, and how many families
        each has.
    largest_count
        The largest number that questions are balanced for.
    """

    name: str
    dataset: str
    domains: dict[str, tuple[str, ...]]
    attributes: dict[str, tuple[str, ...]]
    filter_attributes: tuple[str, ...]
    functions: dict[str, FunctionType]
    question_types: dict[str, tuple[str, ...]]
    other_answers: tuple[str, ...]
    synonyms: dict[str, tuple[str, ...]]
    noun: str
    noun_type: str | None
    words_after_an: tuple[str, ...]
    family_groups: dict[str, int]
    largest_count: int

    @property
    def relations(self) -> tuple[str, ...]:
        return self.domains.get("Relation", ())

    @cached_property
    def filter_types(self) -> list[str]:
        """The types of a composite node's side inputs, without the relation."""
        by_name = {name.lower(): name for name in self.domains}
        return [by_name[attribute] for attribute in self.filter_attributes]

    @cached_property
    def answer_functions(self) -> tuple[str, ...]:
        """The functions that end a program with a question type, in the order of ``types`` in
        question files."""
        return tuple(name for names in self.question_types.values() for name in names)

    @cached_property
    def type_names(self) -> tuple[str, ...]:
        """All functions that end a program."""
        return (*self.answer_functions, *self.other_answers)

    @cached_property
    def referring_functions(self) -> tuple[str, ...]:
        """The functions that can end a referring expression's program, since they give objects."""
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


@cache
def read_world(source: str | Path) -> World:
    """A world of this package by its name, or that of a metadata file by its path.

    Raises
    ------
    UserError
        If there is no such world or file, or the file is no metadata of a world: it lacks values
        that a function needs, or has a function that the engine does not know.
    """
    name = str(source)
    path = Path(source) if name.endswith(".json") else _folder(name) / "metadata.json"
    if not name.endswith(".json") and not path.is_file():
        raise UserError(f"{name!r} is no world; give clevr, sound or a metadata.json")
    content = read_bytes(path, "give the metadata of a world")
    metadata = decode_json(content, _Metadata, path, CORRECT)
    if problem := _problem(metadata):
        raise UserError(f"{path}: {problem}; {CORRECT}")
    return _build(name, metadata)


def _problem(metadata: _Metadata) -> str | None:
    domains = {name for name, values in metadata.types.items() if values}
    names = [function.name for function in metadata.functions]
    if len(set(names)) < len(names):
        return f"two functions are called {max(names, key=names.count)!r}"
    lowered = {name.lower() for name in domains}
    for function in metadata.functions:
        for name in (*function.inputs, *function.side_inputs, function.output):
            if name not in metadata.types:
                return f"{function.name!r} has the type {name!r}, which types does not list"
        if bad := [name for name in function.side_inputs if name not in domains]:
            return f"{function.name!r} has the side input {bad[0]!r}, which has no values"
        if function.template_only:
            if not COMPOSITE_NODE.match(function.name):
                return f"{function.name!r} is no composite node that is known"
            continue
        operation, _, attribute = function.name.partition("_")
        on_attribute = operation in _ON_ATTRIBUTES and attribute in lowered
        if function.name not in _OPERATIONS and not on_attribute:
            return f"{function.name!r} is no function that is known"
    known = {*names, *metadata.other_answers}
    for functions in (metadata.question_types or {}).values():
        if unknown := [name for name in functions if name not in known]:
            return f"question_types has {unknown[0]!r}, which is no function"
    return None


def _build(name: str, metadata: _Metadata) -> World:
    domains = {name: values for name, values in metadata.types.items() if values}
    attributes = [n for n in domains if any(f.name == f"filter_{n.lower()}"
                                            for f in metadata.functions)]  # fmt: skip
    composite = [f for f in metadata.functions if f.name == "filter" and f.template_only]
    in_filters = list(composite[0].side_inputs) if composite else attributes
    ordered = [*in_filters, *(n for n in attributes if n not in in_filters)]
    functions = {
        f.name: msgspec.structs.replace(
            f, inputs=tuple(map(_type_name, f.inputs)), output=_type_name(f.output)
        )
        for f in metadata.functions
        if not f.template_only
    }
    question_types = metadata.question_types or _question_types(
        [n.lower() for n in ordered], metadata.functions
    )
    typed = {function for names in question_types.values() for function in names}
    others = [f.name for f in metadata.functions
              if f.terminal and not f.template_only and f.name not in typed]  # fmt: skip
    return World(
        name=name,
        dataset=metadata.dataset,
        domains=domains,
        attributes={n.lower(): domains[n] for n in ordered},
        filter_attributes=tuple(n.lower() for n in in_filters),
        functions=functions,
        question_types=question_types,
        other_answers=tuple(dict.fromkeys((*metadata.other_answers, *others))),
        synonyms=metadata.synonyms,
        noun=metadata.noun,
        noun_type=metadata.noun_type or (in_filters[-1] if in_filters else None),
        words_after_an=metadata.words_after_an,
        family_groups=metadata.family_groups,
        largest_count=metadata.largest_count,
    )


def _type_name(name: str) -> str:
    return _STRUCTURAL.get(name, name.lower())


def _question_types(
    attributes: list[str], functions: list[FunctionType]
) -> dict[str, tuple[str, ...]]:
    """The five question types of the FiLM paper's table 1, by terminal function."""
    terminal = {f.name for f in functions if f.terminal}
    types = {
        "count": ("count",),
        "exist": ("exist",),
        "compare integer": ("equal_integer", "less_than", "greater_than"),
        "query attribute": tuple(f"query_{name}" for name in attributes),
        "compare attribute": tuple(f"equal_{name}" for name in attributes),
    }
    return {name: tuple(f for f in names if f in terminal) for name, names in types.items()}


CLEVR = read_world("clevr")
