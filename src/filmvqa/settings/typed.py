"""Settings: dataclasses whose fields are checked for their type, range and choices.

Nothing here imports torch, so that a wrong value is reported before anything slow is imported.
"""

from __future__ import annotations

import collections.abc
import difflib
import json
import math
import types
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from typing import (
    Annotated,
    Any,
    ClassVar,
    Literal,
    TypeVar,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import msgspec
from msgspec import Meta

from filmvqa.system.errors import UserError

#: Up to the largest number that a 32-bit integer holds.
Natural = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
#: torch takes seeds of 64 bits (on a CPU it uses the lowest 32), NumPy none below 0.
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
#: More processes or threads than any machine runs well are a slip of the keyboard.
Workers = Annotated[int, Meta(ge=1, le=1024)]
#: Rows or columns of a figure, whose sides Matplotlib limits to 65,535 pixels.
Cells = Annotated[int, Meta(ge=1, le=100)]
#: Sides of images in pixels.
Pixels = Annotated[int, Meta(ge=1, le=16384)]
#: (H, W)
ImageSize = tuple[Pixels, Pixels]
AboveZero = Annotated[float, Meta(gt=0.0)]
NotNegative = Annotated[float, Meta(ge=0.0)]
#: A part of a whole, of which something must be left.
Fraction = Annotated[float, Meta(gt=0.0, le=1.0)]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
#: A path of a file or a folder.
PathText = Annotated[str, Meta(min_length=1, description="a path")]
Name = Annotated[str, Meta(min_length=1, description="a name")]
#: A split's name is part of the names of its files.
SplitName = Annotated[
    str, Meta(pattern=r"^[^/\s]+$", description="the name of a split, without / and spaces")
]
Device = Annotated[
    str,
    Meta(
        pattern=r"^(auto|cpu|cuda|cuda:\d{1,3}|mps)$",
        description="one of auto, cpu, cuda, cuda:<number>, mps",
    ),
]
Precision = Literal["auto", "float32", "bfloat16"]
#: Whether questions about images that are not there are refused or left out.
MissingImages = Literal["refuse", "leave_out"]
#: Whether questions without an answer, program or family are refused or kept as far as they go.
Incomplete = Literal["refuse", "keep"]
#: Whether batch norms of frozen parts keep their statistics or estimate them from each batch.
FrozenBatchNorm = Literal["eval", "train"]
#: Where features are held.
Placement = Literal["auto", "device", "memory", "stream"]

T = TypeVar("T")


class Settings:
    """The base of a dataclass of settings: making one checks each field against its annotation.

    ``node`` is the path of the settings in configurations, with which messages name a field.
    Annotations may be ``bool``, ``int``, ``float``, ``str``, ``Literal``, lists, tuples and
    dictionaries of these, other ``Settings``, unions, and ``Annotated`` with ``msgspec.Meta``,
    whose ``description``, if there is one, tells the user what is wanted.

    Raises
    ------
    UserError
        For a value of another type, out of its range, or none of the choices.
    """

    node: ClassVar[str] = ""

    def __post_init__(self) -> None:
        hints = _hints(type(self))
        for name in _names(type(self)):
            value = checked(getattr(self, name), hints[name], self.key_of(name))
            object.__setattr__(self, name, value)

    @classmethod
    def key_of(cls, name: str) -> str:
        """The key of a field in configurations."""
        return f"{cls.node}.{name}" if cls.node else name


S = TypeVar("S", bound=Settings)


#: In the metadata of a field: a function that returns the types of groups of keys that other rooms
#: register, by key, such as the settings of a user's own world. The field maps the keys of the
#: groups that are given to these; in a configuration each stands beside the other fields.
GROUPS = "groups"


def settings_from(plain: Any, settings_type: type[S]) -> S:
    """The settings that a configuration gives as nested plain data.

    Raises
    ------
    UserError
        For an unknown or a missing key, and for a wrong value.
    """
    if not isinstance(plain, Mapping):
        raise UserError(f"{settings_type.node}={shown(plain)}: must be {wanted(settings_type)}")
    hints = key_hints(settings_type)
    values: dict[str, Any] = {}
    for name, value in plain.items():
        if name not in hints:
            key = settings_type.key_of(str(name))
            raise UserError(f"{key}: no such key; {_suggestion(str(name), settings_type)}")
        node_type = next(filter(_is_settings, _alternatives(hints[name])), None)
        if node_type is None or (value is None and _takes_null(hints[name])):
            values[name] = value
        else:
            values[name] = settings_from(value, node_type)
    for field in fields(settings_type):  # type: ignore[arg-type]
        is_required = field.default is MISSING and field.default_factory is MISSING
        if is_required and field.name not in values:
            key = settings_type.key_of(field.name)
            raise UserError(f"{key}: is missing; it must be {wanted(hints[field.name])}")
        if groups := field.metadata.get(GROUPS):
            given = {name: values.pop(name, None) for name in groups()}
            values[field.name] = {name: group for name, group in given.items() if group is not None}
    return settings_type(**values)


def checked(value: Any, hint: Any, key: str) -> Any:
    """``value`` as an annotation wants it: a whole number for a float, a tuple for a list, and so
    on.

    Raises
    ------
    UserError
        If it does not fit. The message names ``key``, and says what is wanted.
    """
    if hint is Any:
        return value
    if any(_is_settings(alternative) for alternative in _alternatives(hint)):
        if isinstance(value, Settings) or (value is None and _takes_null(hint)):
            return value
    elif isinstance(value, Mapping) and (entry := _entry_of_mapping(hint)):
        return {
            checked(k, entry[0], f"{key}.{k}"): checked(v, entry[1], f"{key}.{k}")
            for k, v in value.items()
        }
    else:
        for candidate in _candidates(value):
            try:
                fitted = msgspec.convert(candidate, hint)
            except msgspec.ValidationError:
                continue
            if _is_finite(fitted):
                return fitted
    raise UserError(f"{key}={shown(value)}: must be {wanted(hint)}{_hint_at(value, hint, key)}")


def _candidates(value: Any) -> Iterable[Any]:
    """What a value may stand for: 1e5 is a whole number, and a folder's name may be a number."""
    yield value
    if isinstance(value, float) and value.is_integer():
        yield int(value)
    if type(value) is int:
        yield str(value)


def _is_finite(value: Any) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, list | tuple):
        return all(map(_is_finite, value))
    return all(map(_is_finite, value.values())) if isinstance(value, Mapping) else True


def _hint_at(value: Any, hint: Any, key: str) -> str:
    """How a value that does not fit is written so that it does; empty if nothing is known."""
    if isinstance(value, str):
        try:
            number = json.loads(value)
        except ValueError:
            number = None
        if isinstance(number, int | float) and _fits(number, hint):
            return f"; write it without quotes, {key}={value}"
    if isinstance(value, bool | int | float | str) and _fits([value], hint):
        return f"; write {key}=[{value}]"
    return ""


def _fits(value: Any, hint: Any) -> bool:
    try:
        checked(value, hint, "")
    except UserError:
        return False
    return True


def shown(value: Any) -> str:
    """A value as a configuration has it, cut if it is long."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."


# What is wanted, in words.


def wanted(hint: Any) -> str:
    """What an annotation takes, such as ``a whole number of at least 1, or null``."""
    texts = [_wanted_one(alternative) for alternative in _alternatives(hint)]
    return ", or ".join([*dict.fromkeys(texts), *(["null"] if _takes_null(hint) else [])])


def _wanted_one(hint: Any) -> str:
    base, metas = _without_annotation(hint)
    for meta in metas:
        if meta.description:
            return meta.description
    if get_origin(base) is Literal:
        return f"one of {', '.join(map(str, get_args(base)))}"
    if _is_settings(base):
        return f"a group of keys ({', '.join(key_hints(base))})"
    if base in _NAMES:
        return _NAMES[base] + _limits(base, metas)
    if _entry_of_mapping(base) or base in (dict, Mapping):
        return "a group of keys"
    entries = get_args(base)
    is_fixed = get_origin(base) is tuple and Ellipsis not in entries
    least = " of at least one" if any(meta.min_length for meta in metas) else ""
    return f"a list{f' of {len(entries)}' if is_fixed else least}, each {wanted(entries[0])}"


_NAMES = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}


def _limits(base: type, metas: list[Meta]) -> str:
    """The end of what is wanted, such as `` of at least 1``."""
    limits = {
        name: f"{limit:g}" if base is float else str(limit)
        for meta in metas
        for name in ("ge", "gt", "le", "lt", "multiple_of")
        if (limit := getattr(meta, name)) is not None
    }
    if {"ge", "le"} <= limits.keys():
        limits["range"] = f"{limits.pop('ge')} to {limits.pop('le')}"
    words = {
        "range": "from", "ge": "of at least", "gt": "above", "le": "at most", "lt": "below",
        "multiple_of": "that is a multiple of",
    }  # fmt: skip
    texts = [f" {text} {limits[name]}" for name, text in words.items() if name in limits]
    return " and".join(texts)


def _suggestion(name: str, settings_type: type[Settings]) -> str:
    known = list(key_hints(settings_type))
    if near := difflib.get_close_matches(name, known, n=1):
        return f"did you mean {settings_type.key_of(near[0])}?"
    return f"there are {', '.join(known)}"


# Annotations.


_HINTS: dict[type, dict[str, Any]] = {}


def _hints(settings_type: type) -> dict[str, Any]:
    """The annotations of a class, evaluated once."""
    if settings_type not in _HINTS:
        _HINTS[settings_type] = get_type_hints(settings_type, include_extras=True)
    return _HINTS[settings_type]


def _names(settings_type: type[Settings]) -> tuple[str, ...]:
    """The names of the fields, in order."""
    return tuple(field.name for field in fields(settings_type))  # type: ignore[arg-type]


def key_hints(settings_type: type[Settings]) -> dict[str, Any]:
    """The annotation of each key of a configuration, in order: of the fields, and of the groups
    that are registered for them."""
    hints: dict[str, Any] = {}
    for field in fields(settings_type):  # type: ignore[arg-type]
        if groups := field.metadata.get(GROUPS):
            hints |= {name: group | None for name, group in groups().items()}
        else:
            hints[field.name] = _hints(settings_type)[field.name]
    return hints


def _alternatives(hint: Any) -> list[Any]:
    """The members of a union but None; another annotation is its own only one."""
    if get_origin(hint) in (Union, types.UnionType):
        return [a for member in get_args(hint) if member is not type(None)
                for a in _alternatives(member)]  # fmt: skip
    return [hint]


def _takes_null(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def _without_annotation(hint: Any) -> tuple[Any, list[Meta]]:
    """A type, and what annotates it."""
    if get_origin(hint) is not Annotated:
        return hint, []
    base, *metas = get_args(hint)
    return base, [meta for meta in metas if isinstance(meta, Meta)]


def _is_settings(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, Settings)


def _entry_of_mapping(hint: Any) -> tuple[Any, Any] | None:
    """The annotations of the keys and values of a mapping; None if a value is no mapping."""
    for alternative in _alternatives(hint):
        base, _ = _without_annotation(alternative)
        if get_origin(base) in (dict, collections.abc.Mapping):
            key, value = get_args(base)
            return key, value
    return None
