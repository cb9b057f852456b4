"""Types of the models' options, and the check of given options against a constructor."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, get_type_hints

import msgspec
from torch import nn

from filmvqa.errors import OptionError, one_line

_LARGEST = 2**31 - 1
Natural = Annotated[int, msgspec.Meta(ge=0, le=_LARGEST)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=_LARGEST)]
Probability = Annotated[float, msgspec.Meta(ge=0.0, le=1.0)]
#: (C, H, W)
FeatureShape = Annotated[Sequence[Positive], msgspec.Meta(min_length=3, max_length=3)]
OptionGroup = Mapping[str, Any] | None


def check_options(
    module: type[nn.Module], options: Mapping[str, Any], *, group: str | None = None
) -> None:
    """Check the names and the types of options against the signature of a module's constructor.

    A module whose option is a group of options for one of its parts lists the part's class in
    ``OPTION_GROUPS``. The options of a group are the keyword-only parameters of that class; the
    module itself passes the positional ones.

    Raises
    ------
    OptionError
        If the constructor has no such option, or the value is not of its type or out of its range.
    """
    parameters = inspect.signature(module).parameters
    types = get_type_hints(module.__init__, include_extras=True)
    optional = [name for name, p in parameters.items() if p.kind is p.KEYWORD_ONLY]
    known = optional if group is not None else list(parameters)
    groups: dict[str, type[nn.Module]] = getattr(module, "OPTION_GROUPS", {})
    for name, value in options.items():
        label = name if group is None else f"{group}.{name}"
        if name not in known:
            raise OptionError(f"has no option {label!r}; {_suggestion(name, optional)}")
        try:
            msgspec.convert(value, types[name])
        except msgspec.ValidationError as error:
            given = repr(value)[:60]
            raise OptionError(f"{label}={given}: {one_line(error)}") from None
        if name in groups and value is not None:
            check_options(groups[name], value, group=name)


def check_choice(name: str, value: str, choices: Sequence[str]) -> None:
    """Raise ``OptionError`` for a value that is none of the choices."""
    if value not in choices:
        raise OptionError(f"{name}={value!r}; choose from {', '.join(choices)}")


def _suggestion(name: str, known: Sequence[str]) -> str:
    if near := difflib.get_close_matches(name, known, n=1):
        return f"did you mean {near[0]!r}?"
    return f"it has {', '.join(known)}" if known else "it has none"
