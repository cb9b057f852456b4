"""CLEVR's camera: where it stands, what it calls left and behind, where points fall on the image.

The pose and the focal length are those of the release: fitted to the objects' places in
``CLEVR_val_000010.png`` they leave an error of 2 pixels with the camera aimed at the origin.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Blender's default camera, which CLEVR's base scene keeps; jitter is added to it.
CAMERA_POSITION = np.array([7.48113, -6.50764, 5.34367])
#: 35 mm lens on a 32 mm sensor: focal length in image widths.
FOCAL_LENGTH = 35.0 / 32.0
#: Every image shows the frame of the release's 480×320, whatever its own size: one of 224×224
#: is what resizing a 480×320 image for a ResNet gives.
FRAME_ASPECT = 480.0 / 320.0


@dataclass(frozen=True)
class Camera:
    """A pinhole camera at ``position`` (3,) that looks at the origin.

    ``right``, ``up`` and ``forward`` are its orthonormal axes, each (3,), in world units.
    """

    position: Array
    right: Array
    up: Array
    forward: Array

    @classmethod
    def looking_at_origin(cls, position: Array) -> Camera:
        """The upright camera at ``position`` (3,) aimed at the world's origin."""
        forward = -position / np.linalg.norm(position)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right /= np.linalg.norm(right)
        return cls(position, right, np.cross(right, forward), forward)

    def directions(self) -> dict[str, Array]:
        """The six unit vectors of a scene's ``directions``; all but above and below lie in
        the ground plane."""
        behind = self.forward * (1.0, 1.0, 0.0)
        behind /= np.linalg.norm(behind)
        above = np.array([0.0, 0.0, 1.0])
        return {
            "right": self.right,
            "left": -self.right,
            "behind": behind,
            "front": -behind,
            "above": above,
            "below": -above,
        }

    def focal_lengths(self, width: int, height: int) -> tuple[float, float]:
        """Horizontal and vertical focal length in pixels of a ``width`` × ``height`` image."""
        return FOCAL_LENGTH * width, FOCAL_LENGTH * FRAME_ASPECT * height

    def project(self, point: Array, width: int, height: int) -> tuple[float, float, float]:
        """Pixel x and y (from the top left corner) and depth along the axis of a point (3,)."""
        offset = point - self.position
        depth = float(offset @ self.forward)
        focal_x, focal_y = self.focal_lengths(width, height)
        x = width / 2 + focal_x * float(offset @ self.right) / depth
        y = height / 2 - focal_y * float(offset @ self.up) / depth
        return x, y, depth
