"""Wording of questions: a template's text with the values of its parameters."""

from __future__ import annotations

import random
import re

from filmvqa.worlds.families import Template

#: Words for attribute values and relations; a value that is not listed stands for itself.
SYNONYMS: dict[str, tuple[str, ...]] = {
    "thing": ("thing", "object"),
    "sphere": ("sphere", "ball"),
    "cube": ("cube", "block"),
    "large": ("large", "big"),
    "small": ("small", "tiny"),
    "metal": ("metallic", "metal", "shiny"),
    "rubber": ("rubber", "matte"),
    "left": ("left of", "to the left of", "on the left side of"),
    "right": ("right of", "to the right of", "on the right side of"),
    "behind": ("behind",),
    "front": ("in front of",),
}


def write_question(template: Template, values: dict[str, str | None], rng: random.Random) -> str:
    """Choose one of the template's wordings and replace its parameters by words."""
    text = rng.choice(template.text)
    text = _drop_other(text, values)
    for parameter in template.params:
        value = values.get(parameter.name)
        if value is None:
            value = "thing" if parameter.type == "Shape" else ""
        if value in SYNONYMS:
            value = rng.choice(SYNONYMS[value])
        text = text.replace(parameter.name, value)
    while match := re.search(r"\[([^\[\]]*)\]", text):
        kept = match[1] if rng.random() < 0.5 else ""
        text = text[: match.start()] + kept + text[match.end() :]
    text = re.sub(r"\s+(?=[?;,])", "", " ".join(text.split()))
    return re.sub(r"\b([Aa]) (?=object)", r"\1n ", text)


def _drop_other(text: str, values: dict[str, str | None]) -> str:
    """Remove "other" if the two objects are described by different values, as in CLEVR."""
    if " other " not in text and " another " not in text:
        return text
    letters = "ZCMS"
    pairs = [(values.get(f"<{k}>"), values.get(f"<{k}2>")) for k in letters]
    if any(a and b and a != b for a, b in pairs):
        text = text.replace(" other ", " ").replace(" another ", " a ")
    return text
