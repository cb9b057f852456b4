"""Annotations of settings' fields: types, limits, and other notes."""

from __future__ import annotations

import collections.abc
import types
from dataclasses import fields
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from msgspec import Meta

#: The metadata entry of a field that holds groups of keys registered elsewhere, such as the
#: settings of a user's own world. Its value is a function that returns the groups' types by key.
#: The field is a dictionary of the groups; a configuration has each group beside the other fields.
GROUPS = "groups"

_ANNOTATIONS: dict[type, dict[str, tuple[Any, list[Any]]]] = {}


def field_annotations(settings_type: type[Any]) -> dict[str, tuple[Any, list[Any]]]:
    """The type of each field with its limits, and the field's other notes; cached by class."""
    if settings_type in _ANNOTATIONS:
        return _ANNOTATIONS[settings_type]
    hints = get_type_hints(settings_type, include_extras=True)
    annotations: dict[str, tuple[Any, list[Any]]] = {}
    for name in (field.name for field in fields(settings_type)):
        base, metas = without_limits(hints[name])
        notes = [note for note in getattr(hints[name], "__metadata__", ()) if note not in metas]
        annotations[name] = (Annotated[base, *metas] if metas else base, notes)
    _ANNOTATIONS[settings_type] = annotations
    return annotations


def notes_of(settings_type: type[Any], key: str) -> list[Any]:
    """The notes on the field of a key, such as an ``Effect``, without limits.

    A key without a field gets the notes of the field with ``GROUPS``, if there is one: its group
    may be registered elsewhere.
    """
    holders = {GROUPS if GROUPS in field.metadata else field.name: field.name
               for field in fields(settings_type)}  # fmt: skip
    name = holders.get(key, holders.get(GROUPS))
    return [] if name is None else field_annotations(settings_type)[name][1]


def group_type(hint: Any) -> Any:
    """The class of settings in an annotation; None if there is none."""
    return next(filter(is_settings, alternatives(hint)), None)


def key_hints(settings_type: type[Any]) -> dict[str, Any]:
    """The annotation of each key of a configuration, in order: of fields and registered groups."""
    hints: dict[str, Any] = {}
    for field in fields(settings_type):
        if groups := field.metadata.get(GROUPS):
            hints |= {name: group | None for name, group in groups().items()}
        else:
            hints[field.name] = field_annotations(settings_type)[field.name][0]
    return hints


def alternatives(hint: Any) -> list[Any]:
    """The members of a union except None; for another annotation only itself."""
    if get_origin(hint) in (Union, types.UnionType):
        return [a for member in get_args(hint) if member is not type(None)
                for a in alternatives(member)]  # fmt: skip
    return [hint]


def takes_null(hint: Any) -> bool:
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def without_limits(hint: Any) -> tuple[Any, list[Meta]]:
    """Split an annotation into its type and its limits."""
    if get_origin(hint) is not Annotated:
        return hint, []
    base, *metas = get_args(hint)
    return base, [meta for meta in metas if isinstance(meta, Meta)]


def is_settings(hint: Any) -> bool:
    """Whether an annotation is a class of settings."""
    return isinstance(hint, type) and hasattr(hint, "node")


def entry_of_mapping(hint: Any) -> tuple[Any, Any] | None:
    """The annotations of a mapping's keys and values; None if the annotation is not a mapping."""
    for alternative in alternatives(hint):
        base, _ = without_limits(alternative)
        if get_origin(base) in (dict, collections.abc.Mapping):
            key, value = get_args(base)
            return key, value
    return None
