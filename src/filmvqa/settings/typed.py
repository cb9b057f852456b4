"""Settings: dataclasses whose fields are checked for type, range and choices.

Nothing here imports torch, so that a wrong value is reported before slow imports.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
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
    group_type,
    is_settings,
    key_hints,
    takes_null,
)
from filmvqa.settings.effects import Effect
from filmvqa.settings.wording import shown, suggestion, wanted
from filmvqa.system.errors import UserError

#: The upper limit is the largest 32-bit integer.
Natural = Annotated[int, Meta(ge=0, le=2**31 - 1)]
Positive = Annotated[int, Meta(ge=1, le=2**31 - 1)]
#: Torch accepts 64-bit seeds, of which it uses the lowest 32 bits on a CPU; NumPy none below 0.
Seed = Annotated[int, Meta(ge=0, le=2**63 - 1)]
#: Larger numbers of processes or threads are typing errors.
Workers = Annotated[int, Meta(ge=1, le=1024)]
#: Rows or columns of a figure; Matplotlib limits its sides to 65,535 pixels.
Cells = Annotated[int, Meta(ge=1, le=100)]
#: The side of an image in pixels.
Pixels = Annotated[int, Meta(ge=1, le=16384)]
#: (H, W)
ImageSize = tuple[Pixels, Pixels]
AboveZero = Annotated[float, Meta(gt=0.0)]
NotNegative = Annotated[float, Meta(ge=0.0)]
#: A share that must not be empty.
Fraction = Annotated[float, Meta(gt=0.0, le=1.0)]
Probability = Annotated[float, Meta(ge=0.0, le=1.0)]
#: The path of a file or folder.
PathText = Annotated[str, Meta(min_length=1, description="a path")]
Name = Annotated[str, Meta(min_length=1, description="a name")]
#: The name of a folder, which Hydra may have read as a number: ``run=1e3``.
Label = Annotated[str | int | float | bool, Meta(description="a name")]
#: ``name`` of a model and its options, which the model's constructor checks.
ModelOptions = dict[str, Any]
#: The name of a split, which is part of file names.
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
#: Whether to refuse or leave out questions about missing images.
MissingImages = Literal["refuse", "leave_out"]
#: Whether to refuse or keep questions without an answer, program or family.
Incomplete = Literal["refuse", "keep"]
#: Whether batch norms of frozen parts keep their statistics or estimate them from each batch.
FrozenBatchNorm = Literal["eval", "train"]
#: Whether to replace modules of a network by faster ones that compute the same.
Accelerate = Literal["auto"] | bool
#: Where features are stored.
Placement = Literal["auto", "device", "memory", "stream"]

T = TypeVar("T")


class Settings:
    """The base class of dataclasses of settings, whose constructors check each field.

    ``node`` is the path of the settings in configurations, used in messages. Annotations may be
    ``bool``, ``int``, ``float``, ``str``, ``Literal``, lists, tuples and dictionaries of these,
    other ``Settings``, unions, and ``Annotated``. ``Annotated`` may have ``msgspec.Meta``, whose
    ``description`` replaces the type in messages, and other notes, which ``notes_of`` returns.

    Raises
    ------
    UserError
        If a value has another type, is out of range, or is none of the choices.
    """

    node: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, (hint, _) in field_annotations(type(self)).items():
            value = checked(getattr(self, name), hint, self.key_of(name))
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
        """The settings as nested plain data.

        These are the data given to ``settings_from``, or all fields if it did not make them.
        """
        if "_plain" in self.__dict__:
            return deepcopy(dict(self.__dict__["_plain"]))
        plain: dict[str, Any] = {}
        for one in fields(self):  # type: ignore[arg-type]
            value = _plain(getattr(self, one.name))
            plain |= value if GROUPS in one.metadata else {one.name: value}
        return plain


@dataclass(frozen=True, kw_only=True)
class ProgramSettings(Settings):
    """The settings that all programs share.

    Attributes
    ----------
    imports
        The user's own modules, installed or in the current folder. They are imported first, so that
        the settings can name what they register, such as a model.
    debug
        Whether to print the traceback of a user error.
    """

    imports: Annotated[tuple[Name, ...], Effect.NONE] = ()
    debug: Annotated[bool, Effect.UNRECORDED] = False

    def check_models(self) -> None:
        """Raise ``UserError`` for an unknown model or model option; imports torch."""


def _plain(value: Any) -> Any:
    if isinstance(value, Settings):
        return value.plain()
    if isinstance(value, list | tuple):
        return list(map(_plain, value))
    return {k: _plain(v) for k, v in value.items()} if isinstance(value, Mapping) else value


S = TypeVar("S", bound=Settings)


def settings_from(plain: Any, settings_type: type[S], root: type[Settings] | None = None) -> S:
    """Make settings of nested plain data.

    ``root`` are the whole configuration's settings if ``settings_type`` are those of a group.

    Raises
    ------
    UserError
        For an unknown key, a missing key, or a wrong value.
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
            groups_or_none = {name: values.pop(name, None) for name in groups()}
            values[one.name] = {
                k: group for k, group in groups_or_none.items() if group is not None
            }
    made = settings_type(**values)
    object.__setattr__(made, "_plain", plain)
    return made


def defaults_of(settings_type: type[Settings]) -> dict[str, Any]:
    """The default values of keys as nested plain data, also in groups."""
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
    """Convert a value to the type of an annotation, such as a list to a tuple.

    Raises
    ------
    UserError
        If the value does not fit. The message names ``key`` and the values that fit.
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
            with suppress(msgspec.ValidationError, ValueError):
                fitted = msgspec.convert(candidate, hint)
                json.dumps(fitted, allow_nan=False, default=repr)  # refuses NaN and infinity
                return fitted
    raise UserError(f"{key}={shown(value)}: must be {wanted(hint)}{_hint_at(value, hint, key)}")


def _candidates(value: Any) -> Iterable[Any]:
    """Readings of a value: 1e5 may be a whole number, and a number may be a folder's name."""
    yield value
    if isinstance(value, float) and value.is_integer():
        yield int(value)
    if type(value) is int:
        yield str(value)
    if isinstance(value, os.PathLike):
        yield os.fspath(value)


def _hint_at(value: Any, hint: Any, key: str) -> str:
    """The end of a message that says how to write the value so that it fits, or nothing."""
    if isinstance(value, str):
        with suppress(ValueError):
            number = json.loads(value)
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
