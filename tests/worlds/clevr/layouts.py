"""Layouts with a known content."""

from __future__ import annotations

import numpy as np

from filmvqa.worlds.clevr.camera import Camera
from filmvqa.worlds.clevr.scenes import LAMP_POSITIONS, Layout


def one_object(shape: str, material: str, color: str, half_extent: float = 0.7) -> Layout:
    return Layout(
        camera=Camera.looking_at_origin(np.array([7.48, -6.51, 5.34])),
        lamps=LAMP_POSITIONS,
        size=["large"],
        shape=[shape],
        material=[material],
        color=[color],
        position=np.array([[0.0, 0.0]]),
        half_extent=np.array([half_extent]),
        rotation=np.array([20.0]),
    )
