"""What a changed configuration means for a resumed run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from filmvqa.models import MODELS
from filmvqa.models.options import with_defaults
from filmvqa.settings.annotations import group_type, key_hints, notes_of
from filmvqa.settings.effects import Effect
from filmvqa.settings.nested import flatten
from filmvqa.settings.typed import Settings, defaults_of
from filmvqa.training.settings import RunSettings

#: Keys that earlier versions lacked, with the values that those versions used, where these are not
#: the defaults of the settings or of the model's options.
ADDED_KEYS: dict[str, Any] = {
    "model.stem.coordinates": None,  # as model.coordinates
    "model.classifier.coordinates": None,
    "train.new_words_std": 0.01,  # without effect: the run's checkpoint has its new words
}


class ConfigChanges(dict[Effect, list[str]]):
    """The changed keys by effect, each as ``<key> was <old>, now <new>``."""

    def of(self, *effects: Effect) -> list[str]:
        """The changes that have one of these effects."""
        return [line for effect in effects for line in self.get(effect, [])]


def effect_of(key: str, settings_type: type[Settings] = RunSettings) -> Effect:
    """The effect in the annotation of the key's field, or of the nearest group that has one.

    Without an annotation a key is taken to change the result.
    """
    name, _, rest = key.partition(".")
    for note in notes_of(settings_type, name):
        if isinstance(note, Effect):
            return note
    group = group_type(key_hints(settings_type).get(name))
    return effect_of(rest, group) if group and rest else Effect.RESULT


def config_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> ConfigChanges:
    """Compare two configurations.

    A key that one of them lacks has its default, which is what versions without the key did.
    """
    old, new = flatten(old), flatten(new)
    defaults = values_without(new.get("model.name"))
    changes = ConfigChanges()
    for key in sorted(old | new):
        before, now = (config.get(key, defaults.get(key)) for config in (old, new))
        if before != now:
            changes.setdefault(effect_of(key), []).append(f"{key} was {before}, now {now}")
    return changes


def values_without(model_name: Any) -> dict[str, Any]:
    """The values of keys that the configuration of a run of this model lacks."""
    return flatten(defaults_of(RunSettings)) | _option_defaults(model_name) | ADDED_KEYS


def _option_defaults(model_name: Any) -> dict[str, Any]:
    """The defaults of a model's options by configuration key, with lists in place of tuples."""
    if model_name not in MODELS:
        return {}
    defaults = flatten({"model": with_defaults(MODELS[model_name], None)})
    return {k: list(v) if isinstance(v, tuple) else v for k, v in defaults.items()}
