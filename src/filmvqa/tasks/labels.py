"""The classes of a segmentation by shape and material, and label maps of scenes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import product
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from filmvqa.system.errors import UserError
from filmvqa.worlds.clevr.scene_file import MATERIALS, SHAPES, SceneObject

#: What an index map has where no object is, as masks of generated sets have it.
NO_OBJECT = 255
#: The label of cells without an object.
BACKGROUND = 0
#: The names of the labels; those of objects are a material and a shape.
LABELS = ("background", *(f"{m} {s}" for m, s in product(MATERIALS, SHAPES)))


def label_of(scene_object: SceneObject, path: str | Path) -> int:
    """The label of an object.

    Raises
    ------
    UserError
        For a shape or material that CLEVR does not have; ``path`` is the scenes' file.
    """
    name = f"{scene_object.material} {scene_object.shape}"
    if name not in LABELS[1:]:
        raise UserError(
            f"{path}: a {name} is none of the classes {', '.join(LABELS[1:])}; use scenes of CLEVR"
        )
    return LABELS.index(name)


def label_map(objects: NDArray[np.uint8], labels: Sequence[int]) -> NDArray[np.uint8]:
    """Labels (H, W) of an index map (H, W) of objects, ``NO_OBJECT`` where there is none.

    Raises
    ------
    ValueError
        For the index of an object that has no label.
    """
    table = np.full(NO_OBJECT + 1, 255, np.uint8)
    table[: len(labels)] = labels
    table[NO_OBJECT] = BACKGROUND
    mapped: NDArray[np.uint8] = table[objects]
    if (mapped == 255).any():
        raise ValueError(f"an object {int(objects[mapped == 255][0])} of {len(labels)}")
    return mapped


def labels_shown(labels: NDArray[np.integer]) -> str:
    """The names of the labels of objects in a label map (H, W), with commas."""
    return ", ".join(LABELS[i] for i in np.unique(labels) if i != BACKGROUND)
