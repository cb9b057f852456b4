"""Questions as sums of others, by their programs."""

from __future__ import annotations

from itertools import product
from math import isclose
from typing import get_args, get_type_hints

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.studies.inspection.settings import FilmSettings
from filmvqa.uses.zero_shot.rewriting import (
    SUMS,
    filtered_pairs,
    find_phrases,
    is_rewritten,
    other_color,
    rewrite,
    sum_of_question,
)
from filmvqa.worlds.clevr.scene_file import COLORS
from filmvqa.worlds.clevr.scene_rules import COGENT

LACKING = [(c, s) for c, s in product(COLORS, COGENT["A"]) if c not in COGENT["A"][s]]
#: "How many big cyan metal blocks are there", and its program in prefix order.
WORDS = ["how", "many", "big", "cyan", "metal", "blocks", "are", "there"]
PROGRAM = [
    "count", "filter_shape[cube]", "filter_material[metal]", "filter_color[cyan]",
    "filter_size[large]", "scene",
]  # fmt: skip


def test_the_papers_sum() -> None:
    """Cyan cubes are cyan spheres + another colour's cubes - that colour's spheres."""
    other = other_color("cyan", "cube")
    terms = [(w, " ".join(t)) for w, t in sum_of_question(WORDS, PROGRAM, "cogent", "lacks")]
    assert other in COGENT["A"]["cube"]
    assert terms == [
        (1, "how many big cyan metal spheres are there"),
        (1, f"how many big {other} metal blocks are there"),
        (-1, f"how many big {other} metal spheres are there"),
    ]
    assert sum_of_question(WORDS, PROGRAM, "direct", "lacks") == [(1, WORDS)]
    assert not sum_of_question(WORDS, PROGRAM, "cogent", "has")


def test_several_phrases_multiply() -> None:
    words = ["are", "there", "more", "cyan", "blocks", "than", "gray", "cylinders"]
    phrases = find_phrases(words)
    terms = rewrite(words, phrases, SUMS["cogent"])
    assert [weight for weight, _ in terms] == np.outer([1, 1, -1], [1, 1, -1]).ravel().tolist()
    assert len({" ".join(of_term) for _, of_term in terms}) == 9
    assert all(p.shape == "sphere" or not is_rewritten(p.color, p.shape, "lacks")
               for _, of_term in terms for p in find_phrases(of_term))  # fmt: skip


@pytest.mark.parametrize("name", SUMS)
@given(st.lists(st.sampled_from(LACKING), min_size=1, max_size=3))
def test_the_weights_of_every_sum_add_up_to_1(name: str, pairs: list[tuple[str, str]]) -> None:
    words = [word for pair in pairs for word in (*pair, "and")]
    phrases = find_phrases(words)
    assert [(p.color, p.shape) for p in phrases] == pairs
    assert isclose(sum(weight for weight, _ in rewrite(words, phrases, SUMS[name])), 1)


def test_pairs_are_those_of_one_run_of_filters() -> None:
    assert filtered_pairs(PROGRAM) == [("cyan", "cube")]
    apart = ["exist", "filter_shape[cube]", "relate[left]", "unique", "filter_color[cyan]", "scene"]
    assert not filtered_pairs(apart)


def test_words_that_say_another_thing_than_the_program_are_refused() -> None:
    with pytest.raises(ValueError, match="its words name other colours of shapes"):
        sum_of_question(["how", "many", "cubes", "are", "there"], PROGRAM, "cogent", "lacks")


def test_other_colours_are_of_condition_a() -> None:
    for shape, color in product(("cube", "cylinder"), COLORS):
        other = other_color(color, shape)
        assert other != color
        assert other in COGENT["A"][shape]


def test_settings_have_the_sums() -> None:
    named = get_type_hints(FilmSettings)["arithmetic"]
    assert set(get_args(get_args(named)[0])) == SUMS.keys()
