"""Questions about a colour of a shape as sums of questions about other pairs (paper, section 4.6).

"Cyan cubes" are "cyan spheres" + "brown cubes" - "brown spheres": spheres have all colours in both
conditions of CLEVR-CoGenT.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import product
from typing import Literal, NamedTuple

from filmvqa.worlds.clevr.scene_file import COLORS
from filmvqa.worlds.clevr.scene_rules import COGENT
from filmvqa.worlds.engine.world import CLEVR

#: Which phrases are rewritten: those of pairs that condition A ``lacks``, or that it ``has``.
Pairs = Literal["lacks", "has"]
#: Of what a phrase is the sum, by the name of the sum: weights of the phrase with a sphere's shape,
#: with another colour, and with both. The others than ``cogent`` are its controls; ``direct`` asks
#: the question as it is.
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
#: What stands for a shape, in the singular and in the plural, and the word for a sphere that takes
#: its place.
_SHAPES = {
    f"{word}{end}": (shape, f"sphere{end}")
    for shape in COGENT["A"]
    for word in CLEVR.synonyms.get(shape, (shape,))
    for end in ("", "s")
}


class Phrase(NamedTuple):
    """A colour and a shape in a question, and where their words stand in it."""

    color: str
    shape: str
    color_at: int
    shape_at: int


def find_phrases(words: Sequence[str]) -> list[Phrase]:
    """The noun phrases of a question that name a colour and a shape, in their order."""
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
    """The pairs of colour and shape that a program filters by in one run of filters.

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
    """Whether phrases of this colour and shape are rewritten; those of spheres never are."""
    return shape != "sphere" and (color in COGENT["A"][shape]) == (pairs == "has")


def other_color(color: str, shape: str) -> str:
    """Another colour that the shape has in condition A, always the same for a pair."""
    others = [other for other in COGENT["A"][shape] if other != color]
    return others[COLORS.index(color) % len(others)]


def rewrite(
    words: Sequence[str], phrases: Sequence[Phrase], weights: Weights | None
) -> list[tuple[float, list[str]]]:
    """The questions of which a question is the sum, with their weights, which sum to 1.

    The sums of several phrases multiply: a question with two is a sum of nine. Without ``weights``
    it is the question itself.
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
    """The sum of that name which a question is, by what its program filters by; none of a question
    that it does not concern.

    Raises
    ------
    ValueError
        If its words do not name the pairs that its program filters by.
    """
    filtered = filtered_pairs(program)
    if not any(is_rewritten(*pair, pairs) for pair in filtered):
        return []
    phrases = find_phrases(words)
    if sorted((p.color, p.shape) for p in phrases) != sorted(filtered):
        raise ValueError("its words name other colours of shapes than its program")
    concerned = [p for p in phrases if is_rewritten(p.color, p.shape, pairs)]
    return rewrite(words, concerned, SUMS[name])
