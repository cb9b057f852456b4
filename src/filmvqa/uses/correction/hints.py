"""What is wrong with a segmentation, in the words of a user who looks at it.

As in the FiLM retrospective's example ("There should be water in the middle") a hint names a class
and a place, and nothing else that only the truth knows (Rupprecht et al. 2018, section 3.3, make
theirs in the same way).
"""

from __future__ import annotations

import random
from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from importlib import resources

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from filmvqa.tasks.label_maps import BACKGROUND, LABELS
from filmvqa.tasks.maps import NO_OBJECT

#: The grid of places that can be named, rows and columns.
GRID = 3
#: Fewer cells of nothing that are taken for something are not worth a hint.
MIN_SPURIOUS = 3
#: Stands between hints of one text.
SEPARATOR = "; "


@dataclass(frozen=True)
class Mistake:
    """An object that is missed or taken for another (``label`` is its own), or something where
    nothing is (``label`` is ``BACKGROUND``).

    Attributes
    ----------
    label
        What should be there.
    place
        Row and column of the 3 × 3 grid.
    cells
        How many cells are wrong.
    """

    label: int
    place: tuple[int, int]
    cells: int

    @property
    def content(self) -> tuple[int, tuple[int, int]]:
        """All that a hint says of it."""
        return self.label, self.place


def mistakes(
    predicted: NDArray[np.integer], truth: NDArray[np.integer], objects: NDArray[np.integer]
) -> list[Mistake]:
    """The mistakes of a predicted label map, the largest first.

    An object is a mistake if more than half of its cells have a wrong label. Cells of the
    background that are taken for objects are one for each connected region, without those that
    touch an object: an outline that is too wide is no mistake.

    Parameters
    ----------
    predicted, truth
        Label maps (H, W).
    objects
        The index (H, W) of the object that each cell shows, or ``NO_OBJECT``.
    """
    wrong = predicted != truth
    found = []
    for index in np.unique(objects[objects != NO_OBJECT]):
        cells = objects == index
        count = int((wrong & cells).sum())
        if 2 * count > cells.sum():
            found.append(Mistake(int(truth[cells][0]), _place(cells), count))
    touching = ndimage.binary_dilation(truth != BACKGROUND, np.ones((3, 3), bool))
    regions, num_regions = ndimage.label((predicted != BACKGROUND) & ~touching)
    for number in range(1, num_regions + 1):
        cells = regions == number
        count = int(cells.sum())
        if count >= MIN_SPURIOUS:
            found.append(Mistake(BACKGROUND, _place(cells), count))
    return sorted(found, key=lambda mistake: (-mistake.cells, mistake.content))


def largest_unsaid(
    found: list[Mistake], said: Collection[tuple[int, tuple[int, int]]]
) -> Mistake | None:
    """The largest mistake of which no hint was given; None if there is none."""
    return next((mistake for mistake in found if mistake.content not in said), None)


def _place(cells: NDArray[np.bool_]) -> tuple[int, int]:
    """The grid's row and column of the centre of some cells."""
    rows, columns = np.nonzero(cells)
    height, width = cells.shape
    row = int(GRID * (rows.mean() + 0.5) / height)
    column = int(GRID * (columns.mean() + 0.5) / width)
    return row, column


class _Templates(msgspec.Struct, forbid_unknown_fields=True):
    places: list[list[str]]
    missing: list[str]
    spurious: list[str]


@cache
def _templates() -> _Templates:
    """There is one file of them."""
    content = resources.files("filmvqa.uses.correction").joinpath("hints.json").read_bytes()
    return msgspec.json.decode(content, type=_Templates)


def word_hint(mistake: Mistake, rng: random.Random) -> str:
    """A hint in words, by one of the templates of ``hints.json``."""
    templates = _templates()
    choices = templates.spurious if mistake.label == BACKGROUND else templates.missing
    row, column = mistake.place
    text = rng.choice(choices).replace("<place>", templates.places[row][column])
    return text.replace("<class>", LABELS[mistake.label])


def join_hints(hints: list[str]) -> str:
    """Several hints as one text, which the tokeniser reads with ``;`` as a word."""
    return SEPARATOR.join(hints)
