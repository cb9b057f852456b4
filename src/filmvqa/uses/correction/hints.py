"""The mistakes of a segmentation, in the words of a user who sees it.

As in the FiLM retrospective's example ("There should be water in the middle"), a hint names a class
and a place, and nothing else from the true labels. Rupprecht et al. (2018, section 3.3) make their
hints in the same way.
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

#: Rows and columns of the grid of places that hints name.
GRID = 3
#: A region of background that is labelled as an object is a mistake from this many cells on.
MIN_SPURIOUS = 3
#: Separates the hints of a text.
SEPARATOR = "; "


@dataclass(frozen=True)
class Mistake:
    """A missed or mislabelled object, or a region of background that is labelled as an object.

    Attributes
    ----------
    label
        The true label; ``BACKGROUND`` for a region of background.
    place
        Row and column of the 3 × 3 grid.
    cells
        Number of wrong cells.
    """

    label: int
    place: tuple[int, int]
    cells: int

    @property
    def content(self) -> tuple[int, tuple[int, int]]:
        """What a hint says about it."""
        return self.label, self.place


def mistakes(
    predicted: NDArray[np.integer], truth: NDArray[np.integer], objects: NDArray[np.integer]
) -> list[Mistake]:
    """List the mistakes of a predicted label map, the largest first.

    An object is a mistake if more than half of its cells have a wrong label. Background cells with
    an object's label are one mistake for each connected region. Cells that touch an object do not
    count: an outline that is too wide is not a mistake.

    Parameters
    ----------
    predicted, truth
        Label maps (H, W).
    objects
        The index (H, W) of the object in each cell, or ``NO_OBJECT``.
    """
    wrong = predicted != truth
    result = []
    for index in np.unique(objects[objects != NO_OBJECT]):
        cells = objects == index
        count = int((wrong & cells).sum())
        if 2 * count > cells.sum():
            result.append(Mistake(int(truth[cells][0]), _place(cells), count))
    touching = ndimage.binary_dilation(truth != BACKGROUND, np.ones((3, 3), bool))
    regions, num_regions = ndimage.label((predicted != BACKGROUND) & ~touching)
    for number in range(1, num_regions + 1):
        cells = regions == number
        count = int(cells.sum())
        if count >= MIN_SPURIOUS:
            result.append(Mistake(BACKGROUND, _place(cells), count))
    return sorted(result, key=lambda mistake: (-mistake.cells, mistake.content))


def largest_unsaid(
    found: list[Mistake], said: Collection[tuple[int, tuple[int, int]]]
) -> Mistake | None:
    """The largest mistake that no hint was about; None if there is none."""
    return next((mistake for mistake in found if mistake.content not in said), None)


def _place(cells: NDArray[np.bool_]) -> tuple[int, int]:
    """The grid cell of the centroid of some cells."""
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
    """Read the templates, once."""
    content = resources.files("filmvqa.uses.correction").joinpath("hints.json").read_bytes()
    return msgspec.json.decode(content, type=_Templates)


def word_hint(mistake: Mistake, rng: random.Random) -> str:
    """Word a hint with one of the templates of ``hints.json``."""
    templates = _templates()
    choices = templates.spurious if mistake.label == BACKGROUND else templates.missing
    row, column = mistake.place
    text = rng.choice(choices).replace("<place>", templates.places[row][column])
    return text.replace("<class>", LABELS[mistake.label])


def join_hints(hints: list[str]) -> str:
    """Join hints to one text; the tokenizer reads ``;`` as a token."""
    return SEPARATOR.join(hints)
