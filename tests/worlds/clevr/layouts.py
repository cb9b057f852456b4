"""Layouts with a known content."""

from __future__ import annotations

import numpy as np

from filmvqa.worlds.clevr.camera import Camera
from filmvqa.worlds.clevr.scenes import LAMP_POSITIONS, Layout, PlacedObject


def one_object(shape: str, material: str, color: str) -> Layout:
    return Layout(
        camera=Camera.looking_at_origin(np.array([7.48, -6.51, 5.34])),
        lamps=LAMP_POSITIONS,
        objects=(PlacedObject("large", color, material, shape, 0.0, 0.0, 20.0),),
    )
