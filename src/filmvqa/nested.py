"""Nested plain data, such as a configuration: flattened, and compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """One level of keys, joined with dots; an empty mapping leaves no key."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What changed, as ``<key> was <old>, now <new>``, sorted by key."""
    a, b = flatten(old), flatten(new)
    return [f"{k} was {a.get(k)}, now {b.get(k)}" for k in sorted(a | b) if a.get(k) != b.get(k)]
