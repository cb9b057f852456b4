"""The scenes of three images of the CLEVR release, found by fitting our renderings to them."""

from __future__ import annotations

import numpy as np

from filmvqa.worlds.clevr.camera import CAMERA_POSITION, Camera
from filmvqa.worlds.clevr.scenes import LAMP_POSITIONS, Layout, PlacedObject

#: Of each image: offsets of the camera and of the lamps from their positions without jitter, and
#: the objects: size, material, colour, shape, x, y, rotation in degrees.
SCENES: dict[str, tuple[list[float], list[list[float]], list[tuple]]] = {
    "CLEVR_val_000010.png": (
        [-0.133, -0.002, 0.136],
        [[0.197, 0.007, 0.327], [-0.057, 0.571, -0.348], [0.87, -0.307, -0.247]],
        [
            ("large", "metal", "green", "cube", -1.798, -2.816, 75.6),
            ("small", "metal", "purple", "cube", -1.104, 0.39, 21.4),
            ("large", "metal", "green", "cube", -0.07, 2.22, 11.0),
            ("small", "rubber", "purple", "cylinder", 1.401, -0.236, 0.0),
            ("large", "metal", "green", "cube", 2.593, 2.926, 76.6),
        ],
    ),
    "CLEVR_val_000011.png": (
        [0.111, -0.05, 0.363],
        [[-0.702, 0.139, -0.546], [0.22, 0.616, -0.787], [-0.122, -0.933, 0.091]],
        [
            ("large", "rubber", "brown", "cylinder", -0.208, -2.414, 0.0),
            ("small", "metal", "red", "cylinder", -1.323, -0.061, 0.0),
            ("large", "rubber", "red", "cube", 2.837, -1.723, 56.4),
            ("small", "rubber", "gray", "sphere", 1.435, 1.459, 0.0),
            ("small", "metal", "red", "cube", 2.967, 1.858, 28.6),
        ],
    ),
    "CLEVR_val_000012.png": (
        [-0.028, -0.011, 0.348],
        [[-0.152, -0.356, 0.731], [0.506, 0.314, -0.597], [-0.358, -1.0, -0.585]],
        [
            ("large", "metal", "brown", "cylinder", 0.348, -2.662, 0.0),
            ("large", "metal", "purple", "cylinder", -1.789, 2.76, 0.0),
            ("large", "rubber", "red", "cube", 2.675, 1.333, -7.8),
        ],
    ),
}  # fmt: skip


def released_layout(name: str) -> Layout:
    camera, lamps, objects = SCENES[name]
    return Layout(
        camera=Camera.looking_at_origin(CAMERA_POSITION + camera),
        lamps=LAMP_POSITIONS + np.array(lamps),
        objects=tuple(
            PlacedObject(size, color, material, shape, x, y, rotation)
            for size, material, color, shape, x, y, rotation in objects
        ),
    )
