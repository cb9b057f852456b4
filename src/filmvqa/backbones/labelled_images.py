"""Images with labels for the cells of their feature maps, to pretrain a backbone.

A cell's label has the attributes and the centre of the object that covers most of the cell. The
cells that show an object near its centre are also marked as possible places of the object. The
network learns to choose one of them, which separates neighbouring objects with equal attributes and
makes objects countable.
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
    """N images with a label for each of the h × w cells of their feature maps.

    Attributes
    ----------
    images
        uint8 (N, 3, H, W).
    attributes
        int8 (N, A, h, w): the index of the value of each of the world's A attributes; ``IGNORED``
        in cells without an object.
    places
        uint8 (N, h, w): the number, from 1 to 255, of the object whose place the cell may be; 0 in
        other cells. Each object has at least one such cell.
    offsets
        float16 (N, 2, h, w): the offset from the cell's centre to the object's, to the right and
        down, in cells; 0 in cells without an object.
    """

    images: NDArray[np.uint8]
    attributes: NDArray[np.int8]
    places: NDArray[np.uint8]
    offsets: NDArray[np.float16]

    @classmethod
    def empty(cls, count: int, size: int, num_attributes: int) -> LabelledImages:
        """Images to be filled in, with the labels of images without objects."""
        cells = size // STRIDE
        return cls(
            images=np.empty((count, 3, size, size), np.uint8),
            attributes=np.full((count, num_attributes, cells, cells), IGNORED, np.int8),
            places=np.zeros((count, cells, cells), np.uint8),
            offsets=np.zeros((count, 2, cells, cells), np.float16),
        )


@dataclass(frozen=True)
class PretrainingExamples:
    """The images with which a world pretrains a backbone.

    Attributes
    ----------
    num_values
        The number of values of each attribute, by its name, in the order of the labels.
    draw
        ``draw(count, size, seed)`` draws square images with ``size`` pixels a side; picklable.
    rules
        A description of all else that the images depend on.
    """

    num_values: Mapping[str, int]
    draw: Callable[[int, int, tuple[int, ...]], LabelledImages]
    rules: str
