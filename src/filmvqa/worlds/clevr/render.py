"""Rendering of layouts by ray casting; the compiled part is in ``raycast``.

A surface is lit by three area lamps with soft shadows and by ambient light that nearby objects
occlude. Metal also reflects its surroundings, including other metal. Object colours are CLEVR's,
interpreted as linear light, as in Blender. Lamp powers, ambient light, materials and the rounding
of edges are fitted to three images of the CLEVR release; renderings of their scenes differ from
them by 2.3 levels of 255 on average.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from filmvqa.system.errors import UserError
from filmvqa.worlds.clevr.camera import FRAME_ASPECT, Array
from filmvqa.worlds.clevr.raycast import NO_OBJECT, draw_mask, encode_image, shade_image
from filmvqa.worlds.clevr.scene_rules import SceneRules
from filmvqa.worlds.clevr.scenes import MAX_RESTARTS, Layout, sample_layouts
from filmvqa.worlds.clevr.surfaces import BOUND_SQUARED, FAR, X, Z, tabulate_objects

__all__ = ["NO_OBJECT", "Rendered", "render", "sample_and_render"]

#: RGB radiance of the ground per unit of a lamp's irradiance: key, fill and back lamp.
LAMP_POWERS = np.array([[5.4, 4.85, 4.1], [0.65, 0.75, 0.95], [2.6, 2.6, 2.65]])
LAMP_HALF_EXTENT = 0.7


@dataclass(frozen=True)
class Rendered:
    """A rendered layout of N objects.

    Attributes
    ----------
    image
        sRGB image.
    mask
        Index of the object that each pixel's centre shows, or ``NO_OBJECT``.
    visible
        Number of mask pixels of each object.
    """

    image: NDArray[np.uint8]  # (H, W, 3)
    mask: NDArray[np.uint8]  # (H, W)
    visible: NDArray[np.int64]  # (N,)


def render(
    layout: Layout, width: int, height: int, rays: int = 2, min_visible: int = 0
) -> Rendered | None:
    """Render a layout with ``rays`` × ``rays`` rays per pixel, on bare ground at most 2 × 2.

    Returns
    -------
    Rendered or None
        None if an object has fewer than ``min_visible`` visible pixels; this is tested on the mask,
        before shading.
    """
    objects = tabulate_objects(layout.objects)
    camera = layout.camera
    camera_rows = np.stack([camera.position, camera.right, camera.up, camera.forward])  # (4, 3)
    focal = np.array(camera.focal_lengths(width, height))
    mask = np.empty((height, width), np.uint8)
    boxes = _screen_boxes(objects, camera_rows, focal, width, height)
    visible = draw_mask(objects, boxes, camera_rows, focal, mask)
    if len(visible) and visible.min() < min_visible:
        return None
    image = np.empty((height, width, 3), np.uint8)
    lamps = _lamp_table(layout.lamps)
    shadows = _shadow_boxes(objects, lamps)
    linear, ground = np.empty((height, width, 3)), np.empty((height, width), np.bool_)
    shade_image(objects, lamps, shadows, boxes, camera_rows, focal, rays, linear, ground)
    encode_image(linear, ground, _SRGB_TABLE, image)
    return Rendered(image, mask, visible)


def sample_and_render(
    rng: np.random.Generator,
    rules: SceneRules,
    width: int,
    height: int,
    rays: int = 2,
    frame_aspect: float = FRAME_ASPECT,
) -> tuple[Layout, Rendered]:
    """Sample and render a scene in which each object has ``rules.min_visible`` visible pixels.

    The number of objects, the camera and the lamps are drawn once; see ``sample_layouts``.

    Raises
    ------
    UserError
        If the objects do not fit, or if one is hidden in each of ``MAX_RESTARTS`` layouts.
    """
    min_visible = rules.min_visible(width, height)
    for sampled in islice(sample_layouts(rng, rules), MAX_RESTARTS):
        layout = replace(sampled, camera=replace(sampled.camera, frame_aspect=frame_aspect))
        rendered = render(layout, width, height, rays, min_visible)
        if rendered is not None:
            return layout, rendered
    raise UserError(
        f"rules: an object was hidden in each of {MAX_RESTARTS} scenes of "
        f"{len(layout.objects)} objects; lower rules.min_pixels or rules.max_objects"
    )


def _lamp_table(lamps: Array) -> Array:
    """Return ``lamps`` (L, 5, 3) as described in ``raycast``, facing the origin."""
    table = np.empty((len(lamps), 5, 3))
    for row, position, power in zip(table, lamps, LAMP_POWERS, strict=True):
        normal = -position / np.linalg.norm(position)
        u = np.cross(normal, (0.0, 0.0, 1.0))
        u /= np.linalg.norm(u)
        row[:] = (
            position,
            LAMP_HALF_EXTENT * u,
            LAMP_HALF_EXTENT * np.cross(normal, u),
            normal,
            power,
        )
    return table


def _shadow_boxes(objects: Array, lamps: Array) -> Array:
    """Return ``shadows`` (L, N, 4) as described in ``raycast``, of the objects' bounding spheres.

    The ground point onto which a lamp point projects a sphere point is a ratio of affine functions
    of the lamp point, so its extremes over a lamp are at the lamp's corners.
    """
    boxes = np.empty((len(lamps), len(objects), 4))
    boxes[..., ::2], boxes[..., 1::2] = FAR, -FAR
    corners = [(a, b) for a in (-1, 1) for b in (-1, 1)]
    for lamp, table in zip(lamps, boxes, strict=True):
        for row, box in zip(objects, table, strict=True):
            radius = math.sqrt(row[BOUND_SQUARED])
            for a, b in corners:
                point = lamp[0] + a * lamp[1] + b * lamp[2]
                if point[2] <= row[Z] + radius:  # not above the sphere: the shadow is unbounded
                    box[:] = -FAR, FAR, -FAR, FAR
                    break
                for k in (0, 1):
                    low, high = _tangent_slopes(row[k] - point[k], point[2] - row[Z], radius)
                    box[2 * k] = min(box[2 * k], point[k] + point[2] * low)
                    box[2 * k + 1] = max(box[2 * k + 1], point[k] + point[2] * high)
    return boxes


def _tangent_slopes(offset: float, depth: float, radius: float) -> tuple[float, float]:
    """Return the slopes of the two lines through the origin that are tangent to a circle.

    The circle's centre is (depth, offset), with depth > radius.
    """
    denominator = depth * depth - radius * radius
    spread = radius * math.sqrt(offset * offset + denominator)
    return (offset * depth - spread) / denominator, (offset * depth + spread) / denominator


def _srgb_table() -> NDArray[np.uint8]:
    """Return the sRGB code of linear light (i / 4095)² for each index i, (4096,)."""
    linear = (np.arange(4096) / 4095.0) ** 2
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.round(255 * encoded), np.uint8)


_SRGB_TABLE = _srgb_table()


def _screen_boxes(
    objects: Array, camera: Array, focal: Array, width: int, height: int
) -> NDArray[np.int64]:
    """Return ``boxes`` (N, 4) as described in ``raycast``, of the objects' bounding spheres."""
    boxes = np.empty((len(objects), 4), np.int64)
    for box, row in zip(boxes, objects, strict=True):
        offset = row[X : Z + 1] - camera[0]
        depth, radius = float(offset @ camera[3]), math.sqrt(row[BOUND_SQUARED])
        for k, axis, size in ((0, camera[1], width), (1, -camera[2], height)):
            box[2 * k : 2 * k + 2] = 0, size - 1
            if depth > radius:
                low, high = _tangent_slopes(float(offset @ axis), depth, radius)
                box[2 * k] = max(0, math.floor(size / 2 + focal[k] * low) - 1)
                box[2 * k + 1] = min(size - 1, math.ceil(size / 2 + focal[k] * high) + 1)
    return boxes
