"""Settings: dataclasses whose fields are checked for their type, range and choices.

Nothing here imports torch, so that a wrong value is reported before anything slow is imported.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import MISSING, dataclass, fields
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import Meta

from filmvqa.settings.annotations import (
    GROUPS,
    alternatives,
    entry_of_mapping,
    field_annotations,
    field_names,
    group_type,
    is_settings,
    key_hints,
    takes_null,
)
from filmvqa.settings.effects import Effect
from filmvqa.settings.wording import shown, suggestion, wanted
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
#: A name that Hydra has made a folder of already: ``run=1e3`` is a folder, too.
Label = Annotated[str | int | float | bool, Meta(description="a name")]
#: ``name`` of a model and its options, which its constructor checks.
ModelOptions = dict[str, Any]
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
#: Whether modules of a network are replaced by faster forms of the same, where there are some.
Accelerate = Literal["auto"] | bool
#: Where features are held.
Placement = Literal["auto", "device", "memory", "stream"]

T = TypeVar("T")


class Settings:
    """The base of a dataclass of settings: making one checks each field against its annotation.

    ``node`` is the path of the settings in configurations, with which messages name a field.
    Annotations may be ``bool``, ``int``, ``float``, ``str``, ``Literal``, lists, tuples and
    dictionaries of these, other ``Settings``, unions, and ``Annotated`` with ``msgspec.Meta``,
    whose ``description``, if there is one, tells the user what is wanted, or with other notes on a
    field, which ``notes_of`` returns.

    Raises
    ------
    UserError
        For a value of another type, out of its range, or none of the choices.
    """

    node: ClassVar[str] = ""

    def __post_init__(self) -> None:
        hints = field_annotations(type(self))
        for name in field_names(type(self)):
            value = checked(getattr(self, name), hints[name][0], self.key_of(name))
            object.__setattr__(self, name, value)

    @classmethod
    def key_of(cls, name: str) -> str:
        """The key of a field in configurations."""
        return f"{cls.node}.{name}" if cls.node else name

    def as_override(self, name: str) -> str:
        """A field as ``<key>=<value>``, for messages."""
        value = getattr(self, name)
        return f"{self.key_of(name)}={list(value) if isinstance(value, tuple) else value}"

    def plain(self) -> dict[str, Any]:
        """The settings as nested plain data: as ``settings_from`` was given them, or with every
        field if they were made otherwise."""
        if "_given" in self.__dict__:
            return deepcopy(dict(self.__dict__["_given"]))
        plain: dict[str, Any] = {}
        for one in fields(self):  # type: ignore[arg-type]
            value = _plain(getattr(self, one.name))
            plain |= value if GROUPS in one.metadata else {one.name: value}
        return plain


@dataclass(frozen=True, kw_only=True)
class ProgramSettings(Settings):
    """What all programs share.

    Attributes
    ----------
    imports
        Modules of the user's own, installed or in the current folder, that are imported first:
        what they register, such as a model, can be chosen.
    debug
        Whether the traceback of a user error is printed too.
    """

    imports: Annotated[tuple[Name, ...], Effect.NONE] = ()
    debug: Annotated[bool, Effect.UNRECORDED] = False

    def check_models(self) -> None:
        """Raise ``UserError`` for an unknown model or option of one, which takes torch."""


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.plain()
    if isinstance(value, list | tuple):
        return list(map(_plain, value))
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


S = TypeVar("S", bound=Settings)


def settings_from(plain: Any, settings_type: type[S], root: type[Settings] | None = None) -> S:
    """The settings that a configuration gives as nested plain data; those of a group of ``root``.

    Raises
    ------
    UserError
        For an unknown or a missing key, and for a wrong value.
    """
    if not isinstance(plain, Mapping):
        raise UserError(f"{settings_type.node}={shown(plain)}: must be {wanted(settings_type)}")
    hints, root = key_hints(settings_type), root or settings_type
    values: dict[str, Any] = {}
    for name, value in plain.items():
        if name not in hints:
            key = settings_type.key_of(str(name))
            raise UserError(f"{key}: no such key; {suggestion(str(name), settings_type, root)}")
        node_type = group_type(hints[name])
        if node_type is None or (value is None and takes_null(hints[name])):
            values[name] = value
        else:
            values[name] = settings_from(value, node_type, root)
    for one in fields(settings_type):  # type: ignore[arg-type]
        is_required = one.default is MISSING and one.default_factory is MISSING
        if is_required and one.name not in values:
            key = settings_type.key_of(one.name)
            raise UserError(f"{key}: is missing; it must be {wanted(hints[one.name])}")
        if groups := one.metadata.get(GROUPS):
            given = {name: values.pop(name, None) for name in groups()}
            values[one.name] = {name: group for name, group in given.items() if group is not None}
    made = settings_type(**values)
    object.__setattr__(made, "_given", plain)
    return made


def defaults_of(settings_type: type[Settings]) -> dict[str, Any]:
    """The values of keys that are not given, as nested plain data, in each group too."""
    defaults: dict[str, Any] = {}
    for one in fields(settings_type):  # type: ignore[arg-type]
        if one.default is not MISSING:
            defaults[one.name] = _plain(one.default)
        elif one.default_factory is not MISSING and GROUPS not in one.metadata:
            defaults[one.name] = _plain(one.default_factory())
    for name, hint in key_hints(settings_type).items():
        if group := group_type(hint):
            defaults[name] = defaults_of(group)
    return defaults


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
    if any(is_settings(alternative) for alternative in alternatives(hint)):
        expected = tuple(filter(is_settings, alternatives(hint)))
        if isinstance(value, expected) or (value is None and takes_null(hint)):
            return value
    elif isinstance(value, Mapping) and (entry := entry_of_mapping(hint)):
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
    if isinstance(value, os.PathLike):
        yield os.fspath(value)


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
