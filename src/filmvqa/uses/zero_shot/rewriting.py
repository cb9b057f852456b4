"""Questions about a color of a shape as sums of questions about other pairs (paper, section 4.6).

"Cyan cubes" are "cyan spheres" + "brown cubes" - "brown spheres": spheres have all colors in both
conditions of CLEVR-CoGenT.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Literal, NamedTuple

from filmvqa.worlds.clevr.scene_file import COLORS
from filmvqa.worlds.clevr.scene_rules import COGENT
from filmvqa.worlds.engine.world import CLEVR

#: The pairs whose phrases are rewritten: those that condition A ``lacks``, or that it ``has``.
Pairs = Literal["lacks", "has"]
#: The weights of a phrase's terms by name: with "sphere" as its shape, with another color, and with
#: both. All but ``cogent`` are controls; ``direct`` leaves the question unchanged.
Weights = tuple[float, float, float]
SUMS: dict[str, Weights | None] = {
    "cogent": (1.0, 1.0, -1.0),
    "first": (1.0, 0.0, 0.0),
    "second": (0.0, 1.0, 0.0),
    "third": (0.0, 0.0, 1.0),
    "mean": (1 / 3, 1 / 3, 1 / 3),
    "direct": None,
}

_MATERIALS = {word for value in ("rubber", "metal") for word in CLEVR.synonyms[value]}
#: Words for a shape, singular and plural, with the shape, and the word for a sphere in their place.
_SHAPES = {
    f"{word}{end}": (shape, f"sphere{end}")
    for shape in COGENT["A"]
    for word in CLEVR.synonyms.get(shape, (shape,))
    for end in ("", "s")
}


class Phrase(NamedTuple):
    """A color and a shape in a question, and the positions of their words."""

    color: str
    shape: str
    color_at: int
    shape_at: int


def find_phrases(words: Sequence[str]) -> list[Phrase]:
    """Find the noun phrases of a question that name a color and a shape, in order."""
    phrases = []
    for shape_at, word in enumerate(words):
        if word not in _SHAPES:
            continue
        color_at = shape_at - 1
        while color_at > 0 and words[color_at] in _MATERIALS:
            color_at -= 1
        if color_at >= 0 and words[color_at] in COLORS:
            phrases.append(Phrase(words[color_at], _SHAPES[word][0], color_at, shape_at))
    return phrases


def filtered_pairs(program: Iterable[str]) -> list[tuple[str, str]]:
    """The pairs of color and shape in each chain of filters of a program.

    Parameters
    ----------
    program
        Its tokens in prefix order, such as ``filter_shape[cube]``.
    """
    pairs, values = [], dict[str, str]()
    for token in (*program, ""):
        function, _, value = token.partition("[")
        if function.startswith("filter_"):
            values[function.removeprefix("filter_")] = value.removesuffix("]")
            continue
        if "color" in values and "shape" in values:
            pairs.append((values["color"], values["shape"]))
        values = {}
    return pairs


def is_rewritten(color: str, shape: str, pairs: Pairs) -> bool:
    """Whether phrases of this color and shape are rewritten; those of spheres never are."""
    return shape != "sphere" and (color in COGENT["A"][shape]) == (pairs == "has")


def other_color(color: str, shape: str) -> str:
    """Another color that the shape has in condition A; always the same for a pair."""
    others = [other for other in COGENT["A"][shape] if other != color]
    return others[COLORS.index(color) % len(others)]


def rewrite(
    words: Sequence[str], phrases: Sequence[Phrase], weights: Weights | None
) -> list[tuple[float, list[str]]]:
    """Rewrite a question as a sum: the questions in it and their weights, whose sum is 1.

    The sums of several phrases multiply: a question with two phrases is a sum of nine. Without
    ``weights`` it is the question itself.
    """
    if weights is None:
        return [(1.0, list(words))]
    terms = []
    for chosen in product(range(3), repeat=len(phrases)):
        weight, changed = 1.0, list(words)
        for phrase, term in zip(phrases, chosen, strict=True):
            weight *= weights[term]
            if term != 1:
                changed[phrase.shape_at] = _SHAPES[words[phrase.shape_at]][1]
            if term != 0:
                changed[phrase.color_at] = other_color(phrase.color, phrase.shape)
        if weight:
            terms.append((weight, changed))
    return terms


def sum_of_question(
    words: Sequence[str], program: Iterable[str], name: str, pairs: Pairs
) -> list[tuple[float, list[str]]]:
    """Rewrite a question by the sum ``name``; empty if its program has no pair to rewrite.

    Raises
    ------
    ValueError
        If the words of the question do not name the pairs in its program.
    """
    filtered = filtered_pairs(program)
    if not any(is_rewritten(*pair, pairs) for pair in filtered):
        return []
    phrases = find_phrases(words)
    if sorted((p.color, p.shape) for p in phrases) != sorted(filtered):
        raise ValueError("its words name other colours of shapes than its program")
    concerned = [p for p in phrases if is_rewritten(p.color, p.shape, pairs)]
    return rewrite(words, concerned, SUMS[name])
