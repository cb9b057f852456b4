"""Wording of questions: a template's text with the values of its parameters."""

from __future__ import annotations

import random
import re

from filmvqa.worlds.engine.families import Template
from filmvqa.worlds.engine.world import CLEVR, World

#: Optional text, in brackets.
_OPTIONAL = re.compile(r"\[([^\[\]]*)\]")


def write_question(
    template: Template, values: dict[str, str | None], rng: random.Random, world: World = CLEVR
) -> str:
    """Choose one of the template's wordings and replace its parameters by words."""
    text = rng.choice(template.text)
    text = _drop_other(text, template, values, world)
    for parameter in template.params:
        value = values.get(parameter.name)
        if value is None:
            value = world.noun if parameter.type == world.noun_type else ""
        if value in world.synonyms:
            value = rng.choice(world.synonyms[value])
        text = text.replace(parameter.name, value)
    while match := _OPTIONAL.search(text):
        kept = match[1] if rng.random() < 0.5 else ""
        text = text[: match.start()] + kept + text[match.end() :]
    text = " ".join(text.split())
    for mark in "?;,":
        text = text.replace(f" {mark}", mark)
    for word in world.words_after_an:
        if word in text:
            text = re.sub(rf"\b([Aa]) (?={re.escape(word)})", r"\1n ", text)
    return text


def _drop_other(text: str, template: Template, values: dict[str, str | None], world: World) -> str:
    """Remove "other" if different values describe the two objects, as in CLEVR."""
    if " other " not in text and " another " not in text:
        return text
    described = [p.name for p in template.params if p.type in world.filter_types]
    pairs = [(values.get(name), values.get(f"{name[:-1]}2>")) for name in described]
    if any(a and b and a != b for a, b in pairs):
        text = text.replace(" other ", " ").replace(" another ", " a ")
    return text
