"""Images with labels for the cells of their feature maps, by which a backbone is pretrained.

A world gives a label for each cell: the attributes and the centre of the object that covers most
of the cell. The cells around an object's centre that show it are labelled too: one of them is to be
its place, so that two neighbouring objects with equal attributes can be told apart, and objects be
counted.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

#: Pixels per cell of the feature map, in each direction.
STRIDE = 8
#: The attribute label of cells without an object.
IGNORED = -1


class LabelledImages(NamedTuple):
    """N images with a label for each cell of their feature maps of h × w cells.

    Attributes
    ----------
    images
        uint8 (N, 3, H, W).
    attributes
        int8 (N, A, h, w): indices of values, of each attribute of the world; ``IGNORED`` in cells
        without an object.
    places
        uint8 (N, h, w): in cells that may be the place of an object, its number from 1 to 255; else
        0. Each object has such a cell.
    offsets
        float16 (N, 2, h, w): from the cell's centre to the object's, to the right and down, in
        cells; 0 in cells without an object.
    """

    images: NDArray[np.uint8]
    attributes: NDArray[np.int8]
    places: NDArray[np.uint8]
    offsets: NDArray[np.float16]

    @classmethod
    def empty(cls, count: int, size: int, num_attributes: int) -> LabelledImages:
        """Images that are to be drawn, labelled as images without objects."""
        cells = size // STRIDE
        return cls(
            images=np.empty((count, 3, size, size), np.uint8),
            attributes=np.full((count, num_attributes, cells, cells), IGNORED, np.int8),
            places=np.zeros((count, cells, cells), np.uint8),
            offsets=np.zeros((count, 2, cells, cells), np.float16),
        )


@dataclass(frozen=True)
class PretrainingExamples:
    """What a world gives to pretrain a backbone.

    Attributes
    ----------
    num_values
        The number of values of each attribute, by its name, in the order of the labels.
    draw
        Draws a number of square images, of a size in pixels, by a seed; can be pickled.
    rules
        What the images depend on beside that, as text.
    """

    num_values: Mapping[str, int]
    draw: Callable[[int, int, tuple[int, ...]], LabelledImages]
    rules: str
