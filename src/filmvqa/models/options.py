"""Types of the models' options, and the check of options against a constructor's signature."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

from msgspec import Meta
from torch import nn

from filmvqa.settings.typed import Positive, checked
from filmvqa.settings.wording import shown
from filmvqa.system.errors import OptionError, UserError

#: Where coordinate maps are appended.
Coordinates = Literal["none", "inputs", "everywhere"]
#: The coordinates of these maps: both, as in the paper, or one.
Axes = Literal["xy", "x", "y"]
#: The range to which uint8 pixels are scaled.
PixelRange = Literal["centered", "unit"]
#: (C, H, W)
FeatureShape = Annotated[Sequence[Positive], Meta(min_length=3, max_length=3)]
_Two = Annotated[Sequence[Positive], Meta(min_length=2, max_length=2)]  # tuple crashes msgspec
#: The stride of each layer of a stem.
Strides = Annotated[Sequence[Positive], Meta(min_length=1)]
#: The stride of each layer, or its strides over rows and columns.
StridesByAxis = Annotated[Sequence[Positive | _Two], Meta(min_length=1)]
OptionGroup = Mapping[str, Any] | None


def checked_options(
    module: type[nn.Module],
    options: Mapping[str, Any],
    *,
    group: str = "",
    positional: bool = False,
) -> dict[str, Any]:
    """Check options against the signature of a module's constructor, and convert their values.

    A module can have an option that is a group of options for one of its parts. It then lists the
    part's class in ``OPTION_GROUPS``. The group's options are the keyword-only parameters of that
    class; the module itself passes the positional ones.

    Parameters
    ----------
    group
        Name of the group that the options belong to, for messages.
    positional
        Whether the options may include the positional parameters.

    Raises
    ------
    OptionError
        If the constructor has no such option, or a value has a wrong type or is out of range.
    """
    parameters = inspect.signature(module).parameters
    types = get_type_hints(module.__init__, include_extras=True)
    optional = [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
    allowed = list(parameters) if positional else optional
    groups: dict[str, type[nn.Module]] = getattr(module, "OPTION_GROUPS", {})
    converted: dict[str, Any] = {}
    for name, value in options.items():
        label = f"{group}.{name}" if group else name
        if name not in allowed:
            raise OptionError(f"{label}: no such option; {_suggestion(name, optional)}")
        try:
            converted[name] = checked(value, types.get(name, Any), label)
        except UserError as error:
            raise OptionError(str(error)) from None
        if name in groups and value is not None:
            converted[name] = checked_options(groups[name], value, group=name)
    return converted


def with_defaults(module: type[nn.Module], options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Fill in the defaults of a module's options, in each group too."""
    parameters = inspect.signature(module).parameters.items()
    defaults = {name: p.default for name, p in parameters if p.kind is p.KEYWORD_ONLY}
    complete = defaults | dict(options or {})
    groups: dict[str, type[nn.Module]] = getattr(module, "OPTION_GROUPS", {})
    return complete | {name: with_defaults(part, complete[name]) for name, part in groups.items()}


def with_coordinates(options: OptionGroup, coordinates: bool) -> dict[str, Any]:
    """Add ``coordinates`` to a part's options unless they set it."""
    others = {k: v for k, v in (options or {}).items() if k != "coordinates" or v is not None}
    return {"coordinates": coordinates, **others}


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ``OptionError`` if the value is none of the choices."""
    if value not in choices:
        raise OptionError(f"{name}={shown(value)}: must be one of {', '.join(choices)}")


M = TypeVar("M", bound=nn.Module)


def build_part(group: str, part: type[M], *arguments: Any, **options: Any) -> M:
    """Build a part of a model. An ``OptionError`` then names ``group``, the part's options."""
    try:
        return part(*arguments, **options)
    except OptionError as error:
        raise OptionError(f"{group}.{error}") from None


def _suggestion(name: str, options: Sequence[str]) -> str:
    if near := difflib.get_close_matches(name, options, n=1):
        return f"did you mean {near[0]}?"
    return f"there are {', '.join(options)}" if options else "there are none"
