"""Messages about settings: the values that fit, and the nearest key."""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Literal, get_args, get_origin

from msgspec import Meta

from filmvqa.settings.annotations import (
    alternatives,
    entry_of_mapping,
    group_type,
    is_settings,
    key_hints,
    takes_null,
    without_limits,
)


def shown(value: Any) -> str:
    """A value as written in a configuration, shortened if it is long."""
    text = repr(value) if isinstance(value, str) else json.dumps(value, default=repr)
    return text if len(text) <= 60 else f"{text[:57]}..."


def wanted(hint: Any) -> str:
    """Describe the values that fit an annotation: ``a whole number of at least 1, or null``."""
    texts = [_wanted_one(alternative) for alternative in alternatives(hint)]
    return ", or ".join([*dict.fromkeys(texts), *(["null"] if takes_null(hint) else [])])


def _wanted_one(hint: Any) -> str:
    base, metas = without_limits(hint)
    for meta in metas:
        if meta.description:
            return meta.description
    if get_origin(base) is Literal:
        return f"one of {', '.join(map(str, get_args(base)))}"
    if is_settings(base):
        return f"a group of keys ({', '.join(key_hints(base))})"
    if base in _NAMES:
        return _NAMES[base] + _limits(base, metas)
    if entry_of_mapping(base) or base in (dict, Mapping):
        return "a group of keys"
    entries = get_args(base)
    is_fixed = get_origin(base) is tuple and Ellipsis not in entries
    least = " of at least one" if any(meta.min_length for meta in metas) else ""
    return f"a list{f' of {len(entries)}' if is_fixed else least}, each {wanted(entries[0])}"


_NAMES = {bool: "true or false", int: "a whole number", float: "a finite number", str: "text"}


def _limits(base: type, metas: list[Meta]) -> str:
    """Describe the limits of a number, such as `` of at least 1``."""
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


def suggestion(name: str, settings_type: type[Any], root: type[Any]) -> str:
    """The end of a message about an unknown key of a group.

    It names the nearest key of the whole configuration, or else all keys of the group.
    """
    if near := nearest_key(settings_type.key_of(name), _keys_of(root)):
        return f"did you mean {near}?"
    return f"there are {', '.join(key_hints(settings_type))}"


def nearest_key(key: str, candidates: Iterable[str]) -> str | None:
    """The candidate most similar to an unknown key; None if none is similar.

    Compares whole paths with dots, and their last parts: ``data.workers`` may mean ``workers``.
    """
    scores = {}
    for other in candidates:
        last = _likeness(key.rpartition(".")[2], other.rpartition(".")[2])
        whole = _likeness(key, other)
        if last >= 0.6 or whole >= 0.8:
            scores[other] = last + whole
    return max(scores, key=scores.__getitem__, default=None)


def _likeness(one: str, other: str) -> float:
    return difflib.SequenceMatcher(None, one, other).ratio()


def _keys_of(settings_type: type[Any]) -> Iterator[str]:
    """The keys of a configuration, in groups too."""
    for name, hint in key_hints(settings_type).items():
        yield settings_type.key_of(name)
        if group := group_type(hint):
            yield from _keys_of(group)
