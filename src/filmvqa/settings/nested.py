"""Flattening and comparing nested mappings, such as configurations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def flatten(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten a nested mapping, joining keys with dots; an empty mapping has no key."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The changed keys, each as ``<key> was <old>, now <new>``, sorted by key."""
    old, new = flatten(old), flatten(new)
    return [f"{key} was {old.get(key)}, now {new.get(key)}" for key in changed_keys(old, new)]


def changed_keys(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """The sorted keys whose values differ in two flat mappings; a missing key counts as None."""
    return sorted(key for key in old.keys() | new.keys() if old.get(key) != new.get(key))
