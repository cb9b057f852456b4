"""Hints name mistakes, the largest first, and nothing that is correct."""

from __future__ import annotations

import random
from collections import deque

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from filmvqa.questions.vocabulary import tokenize
from filmvqa.tasks.label_maps import BACKGROUND, LABELS
from filmvqa.tasks.maps import NO_OBJECT
from filmvqa.uses.correction.hints import (
    GRID,
    MIN_SPURIOUS,
    Mistake,
    join_hints,
    largest_unsaid,
    mistakes,
    word_hint,
)

Map = NDArray[np.uint8]


@st.composite
def segmentations(draw: st.DrawFn) -> tuple[Map, Map, Map]:
    """A predicted label map, the true one, and objects as rectangles that hide each other."""
    height, width = draw(st.integers(4, 14)), draw(st.integers(4, 14))
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    count = draw(st.integers(0, 5))
    objects = np.full((height, width), NO_OBJECT, np.uint8)
    for index in range(count):
        top, left = rng.integers(height), rng.integers(width)
        objects[top : top + rng.integers(1, 6), left : left + rng.integers(1, 6)] = index
    labels = np.full(NO_OBJECT + 1, BACKGROUND, np.uint8)
    labels[:count] = rng.integers(1, len(LABELS), count)
    truth = labels[objects]
    predicted = truth.copy()
    for _ in range(draw(st.integers(0, 4))):
        top, left = rng.integers(height), rng.integers(width)
        region = np.s_[top : top + rng.integers(1, 6), left : left + rng.integers(1, 6)]
        predicted[region] = rng.integers(len(LABELS))
    return predicted, truth, objects


def spurious_regions(predicted: Map, truth: Map) -> list[set[tuple[int, int]]]:
    """Connected regions, found by a search from cell to cell."""
    height, width = truth.shape

    def is_spurious(i: int, j: int) -> bool:
        around = truth[max(i - 1, 0) : i + 2, max(j - 1, 0) : j + 2]
        return predicted[i, j] != BACKGROUND and not (around != BACKGROUND).any()

    left = {cell for cell in np.ndindex(height, width) if is_spurious(*cell)}
    regions = []
    while left:
        queue = deque([left.pop()])
        region = set(queue)
        while queue:
            i, j = queue.popleft()
            for cell in ((i + 1, j), (i - 1, j), (i, j + 1), (i, j - 1)):
                if cell in left:
                    left.remove(cell)
                    region.add(cell)
                    queue.append(cell)
        regions.append(region)
    return regions


def centre(cells: list[tuple[int, int]], shape: tuple[int, ...]) -> tuple[int, int]:
    middle = np.mean(cells, 0) + 0.5
    return int(GRID * middle[0] / shape[0]), int(GRID * middle[1] / shape[1])


@given(segmentations())
def test_mistakes_are_those_that_a_search_by_cells_finds(example: tuple[Map, Map, Map]) -> None:
    predicted, truth, objects = example
    expected = []
    for index in set(objects.flatten().tolist()) - {NO_OBJECT}:
        cells = [cell for cell in np.ndindex(*objects.shape) if objects[cell] == index]
        wrong = sum(predicted[cell] != truth[cell] for cell in cells)
        if wrong > len(cells) - wrong:
            expected.append(Mistake(int(truth[cells[0]]), centre(cells, truth.shape), wrong))
    expected += [
        Mistake(BACKGROUND, centre(sorted(region), truth.shape), len(region))
        for region in spurious_regions(predicted, truth)
        if len(region) >= MIN_SPURIOUS
    ]
    found = mistakes(predicted, truth, objects)
    order = [(m.content, m.cells) for m in found]
    assert sorted(order) == sorted((m.content, m.cells) for m in expected)
    assert [m.cells for m in found] == sorted((m.cells for m in found), reverse=True)


@given(segmentations())
def test_a_right_segmentation_has_no_mistakes_and_an_empty_one_misses_all(
    example: tuple[Map, Map, Map],
) -> None:
    _, truth, objects = example
    assert mistakes(truth, truth, objects) == []
    found = mistakes(np.zeros_like(truth), truth, objects)
    assert len(found) == len(np.unique(objects[objects != NO_OBJECT]))
    assert sum(m.cells for m in found) == (truth != BACKGROUND).sum()
    assert BACKGROUND not in {m.label for m in found}


@given(segmentations(), st.integers(0, 1000))
def test_what_is_corrected_is_no_longer_said(example: tuple[Map, Map, Map], seed: int) -> None:
    """Correcting an object, or a region that touches none, leaves one mistake less."""
    predicted, truth, objects = example
    found = mistakes(predicted, truth, objects)
    said: set[tuple[int, tuple[int, int]]] = set()
    while (mistake := largest_unsaid(found, said)) is not None:
        assert mistake.cells == max(m.cells for m in found if m.content not in said)
        said.add(mistake.content)
    assert said == {m.content for m in found}
    for index in np.unique(objects[objects != NO_OBJECT]):
        cells = objects == index
        corrected = np.where(cells, truth, predicted)
        was_wrong = 2 * (predicted != truth)[cells].sum() > cells.sum()
        assert len(mistakes(corrected, truth, objects)) == len(found) - was_wrong
    # Places are mirrored with the image.
    turned = mistakes(predicted[:, ::-1], truth[:, ::-1], objects[:, ::-1])
    assert sorted((m.label, m.cells) for m in turned) == sorted((m.label, m.cells) for m in found)


def test_hints_in_words() -> None:
    truth = np.zeros((9, 9), np.uint8)
    truth[3:6, 0:3] = LABELS.index("metal cube")
    objects = np.where(truth > 0, 0, NO_OBJECT).astype(np.uint8)
    predicted = np.zeros_like(truth)
    predicted[0:2, 7:9] = LABELS.index("rubber sphere")
    found = mistakes(predicted, truth, objects)
    rng = random.Random(0)
    texts = [{word_hint(mistake, rng) for _ in range(50)} for mistake in found]
    assert texts == [
        {
            "there should be a metal cube on the left",
            "you missed the metal cube on the left",
            "on the left is a metal cube",
        },
        {"there should be nothing at the top right", "at the top right is only the ground"},
    ]
    assert tokenize(join_hints(["a cube", "nothing"])) == ["a", "cube", ";", "nothing"]


def test_every_class_and_place_has_words_of_its_own() -> None:
    texts = set()
    for label in range(len(LABELS)):
        for place in np.ndindex(GRID, GRID):
            texts.add(word_hint(Mistake(label, place, 1), random.Random(0)))
    assert len(texts) == len(LABELS) * GRID * GRID
    assert not any("<" in text for text in texts)
