"""CLEVR's camera: pose, scene directions and projection onto the image.

Pose and focal length are those of the CLEVR release. A camera that faces the origin reproduces the
object positions in ``CLEVR_val_000010.png`` with an error of 2 pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

#: Position of Blender's default camera, which CLEVR's base scene uses, before jitter is added.
CAMERA_POSITION = np.array([7.48113, -6.50764, 5.34367])
#: Focal length in image widths: a 35 mm lens on a 32 mm sensor.
FOCAL_LENGTH = 35.0 / 32.0
#: Aspect ratio of the release's field of view. It does not depend on the image size, so a 224×224
#: image shows the same as a 480×320 image of the release that is resized to 224×224.
FRAME_ASPECT = 480.0 / 320.0
#: Aspect ratio of the official generator's default, 320×240: the same width, but higher.
DEFAULT_FRAME_ASPECT = 320.0 / 240.0


@dataclass(frozen=True)
class Camera:
    """A pinhole camera.

    Attributes
    ----------
    position
        (3,) in world units.
    right, up, forward
        Orthonormal axes in world coordinates, (3,) each.
    frame_aspect
        Width of the field of view over its height, whatever the image's size.
    """

    position: Array
    right: Array
    up: Array
    forward: Array
    frame_aspect: float = FRAME_ASPECT

    @classmethod
    def looking_at_origin(cls, position: Array) -> Camera:
        """Make an upright camera at ``position`` (3,) that looks at the origin."""
        forward = -position / np.linalg.norm(position)
        right = np.cross(forward, (0.0, 0.0, 1.0))
        right /= np.linalg.norm(right)
        return cls(position, right, np.cross(right, forward), forward)

    def directions(self) -> dict[str, Array]:
        """Return the six unit vectors of a scene's ``directions``, (3,) each.

        All but above and below lie in the ground plane.
        """
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
        """Return the horizontal and the vertical focal length in pixels."""
        return FOCAL_LENGTH * width, FOCAL_LENGTH * self.frame_aspect * height

    def project(self, point: Array, width: int, height: int) -> tuple[float, float, float]:
        """Project a point (3,) onto a ``width`` × ``height`` image.

        Returns
        -------
        x, y
            Pixel coordinates, measured from the top left corner.
        depth
            Distance along ``forward`` in world units.
        """
        offset = point - self.position
        depth = float(offset @ self.forward)
        focal_x, focal_y = self.focal_lengths(width, height)
        x = width / 2 + focal_x * float(offset @ self.right) / depth
        y = height / 2 - focal_y * float(offset @ self.up) / depth
        return x, y, depth
