"""A reference renderer of masks: sphere tracing of signed distances."""

from __future__ import annotations

import numpy as np

from filmvqa.worlds.clevr.raycast import NO_OBJECT
from filmvqa.worlds.clevr.scenes import Layout
from filmvqa.worlds.clevr.surfaces import CUBE_BEVEL, CYLINDER_BEVEL


def sphere_traced_mask(layout: Layout, width: int, height: int) -> np.ndarray:
    """Return the object index of each pixel, (H, W), without any ray intersection formula."""
    camera = layout.camera
    fx, fy = 35 / 32 * width, 35 / 32 * 1.5 * height
    ys, xs = np.mgrid[0:height, 0:width] + 0.5
    d = (
        camera.forward
        + ((xs - width / 2) / fx)[..., None] * camera.right
        - ((ys - height / 2) / fy)[..., None] * camera.up
    )
    d /= np.linalg.norm(d, axis=-1, keepdims=True)
    t = np.zeros((height, width))
    nearest = np.zeros((height, width), int)
    for _ in range(400):
        p = camera.position + t[..., None] * d
        distances = []
        for centre, thing in zip(layout.centres(), layout.objects, strict=True):
            half_extent, shape, angle = thing.half_extent, thing.shape, np.radians(thing.rotation)
            q = p - centre
            if shape == "sphere":
                distances.append(np.linalg.norm(q, axis=-1) - half_extent)
                continue
            bevel = CUBE_BEVEL if shape == "cube" else CYLINDER_BEVEL
            flat_extent = half_extent * (1 - bevel)
            if shape == "cube":
                x = q[..., 0] * np.cos(angle) + q[..., 1] * np.sin(angle)
                y = q[..., 1] * np.cos(angle) - q[..., 0] * np.sin(angle)
                over = np.abs(np.stack([x, y, q[..., 2]], -1)) - flat_extent
            else:
                rho = np.hypot(q[..., 0], q[..., 1])
                over = np.stack([rho - flat_extent, np.abs(q[..., 2]) - flat_extent], -1)
            outside = np.linalg.norm(np.maximum(over, 0), axis=-1)
            distances.append(outside + np.minimum(over.max(-1), 0) - bevel * half_extent)
        stacked = np.stack([*distances, p[..., 2]])
        nearest = stacked.argmin(0)
        t += stacked.min(0)
    mask = np.where(nearest == len(layout.objects), NO_OBJECT, nearest)
    return mask.astype(np.uint8)
