"""Hidden concepts: "there is an X", where X is an attribute value or a pair of two."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
from numpy.typing import NDArray

from filmvqa.worlds.clevr.scene_file import ATTRIBUTES, Scene

#: The classes of objects: a value of each attribute, in the order of ``ATTRIBUTES``.
CLASSES: tuple[tuple[str, ...], ...] = tuple(product(*ATTRIBUTES.values()))
#: 15 attribute values, then 72 pairs of values of two attributes.
CONCEPTS: tuple[dict[str, str], ...] = tuple(
    dict(zip(names, values, strict=True))
    for size in (1, 2)
    for names in combinations(ATTRIBUTES, size)
    for values in product(*(ATTRIBUTES[name] for name in names))
)
#: Number of values and of pairs that are held out, 24 in all.
_HELD_OUT = {1: 4, 2: 20}

Bools = NDArray[np.bool_]


def hold_out(seed: int = 0) -> Bools:
    """(87,) which concepts are held out from training: about a quarter of values and of pairs."""
    generator = np.random.default_rng(seed)
    sizes = np.array([len(concept) for concept in CONCEPTS])
    held = np.zeros(len(CONCEPTS), bool)
    for size, count in _HELD_OUT.items():
        held[generator.choice(np.flatnonzero(sizes == size), count, replace=False)] = True
    return held


def present_classes(scenes: list[Scene]) -> Bools:
    """(N, 96) which classes have objects in each scene."""
    number = {values: i for i, values in enumerate(CLASSES)}
    present = np.zeros((len(scenes), len(CLASSES)), bool)
    for row, scene in zip(present, scenes, strict=True):
        for thing in scene.objects:
            row[number[tuple(getattr(thing, name) for name in ATTRIBUTES)]] = True
    return present


def _is_of(concept: dict[str, str], values: tuple[str, ...]) -> bool:
    return concept.items() <= dict(zip(ATTRIBUTES, values, strict=True)).items()


#: (87, 96) whether an object of a class is an X, for each concept.
MEMBERS: Bools = np.array([[_is_of(concept, values) for values in CLASSES] for concept in CONCEPTS])
_DIFFERING = np.array(
    [[[a != b for a, b in zip(x, y, strict=True)] for y in CLASSES] for x in CLASSES]
)


def near_classes(concept: int, classes: Bools) -> Bools:
    """(96,) the classes that differ from an X among ``classes`` (96,) in one attribute of X.

    With a large red metal cube, for "red cube": large metal cubes of other colors, and large red
    metal spheres and cylinders.
    """
    is_named = np.array([name in CONCEPTS[concept] for name in ATTRIBUTES])
    beside = (_DIFFERING.sum(-1) == 1) & _DIFFERING[..., is_named].any(-1)  # (96, 96)
    near: Bools = beside[classes & MEMBERS[concept]].any(0)
    return near
