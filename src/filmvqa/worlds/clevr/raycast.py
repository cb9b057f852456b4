"""The compiled part of the renderer: intersections, lighting and materials of one image.

Arrays that the functions share (N objects, L lamps):

- ``objects`` (N, 12): one row per object; the columns are named below.
- ``lamps`` (L, 5, 3): position, two half edges, normal and RGB power of each lamp.
- ``shadows`` (L, N, 4): ground bounds of each object's shadow (x low, x high, y low, y high).
- ``boxes`` (N, 4): inclusive pixel bounds of each object (left, right, top, bottom).
- ``camera`` (4, 3): position, right, up, forward.

Points, directions and normals are tuples: o is the origin of a ray, d and v are unit directions, n
is a unit normal.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numba import njit
from numpy.typing import NDArray

from filmvqa.worlds.clevr import surfaces
from filmvqa.worlds.clevr.camera import Array
from filmvqa.worlds.clevr.scene_file import Vector
from filmvqa.worlds.clevr.surfaces import (
    FAR,
    HALF_EXTENT,
    METAL,
    NUMBA_OPTIONS,
    RED,
    X,
    Y,
    Z,
    dot,
    intersect,
    nearest_hit,
    njit_inline,
    ray_point,
    scaled,
    surface_normal,
)

#: Mask value of pixels without an object.
NO_OBJECT = 255
AMBIENT = 0.132  # ambient light at a point that nothing occludes
# Radiance that metal reflects from above: it falls with the vertical component of the direction,
# down to that of the zenith. Tops of metal objects reflect the dim wall behind the scene, their
# rounded edges a dark band.
SKY_HORIZON, SKY_FALL, SKY_ZENITH = 0.195, 0.2, 0.02
HORIZON = -0.1  # metal reflects the ground along directions that fall faster
REFLECTIONS = 2  # of one ray
GROUND_RAYS = 2  # per pixel and axis where no object can be seen
# Weights of each material's components and Phong exponents (GLOSS), fitted by eye to the release.
# Objects seen at a grazing angle reflect more: SHEEN is what rubber would reflect of a gray ground.
RUBBER_DIFFUSE, RUBBER_HIGHLIGHT, RUBBER_GLOSS, RUBBER_SHEEN = 1.18, 0.04, 10.0, 0.09
METAL_DIFFUSE, METAL_HIGHLIGHT, METAL_GLOSS, METAL_MIRROR = 0.02, 18.0, 60.0, 0.95
ROUGHNESS = 0.05  # of metal: largest deviation of a reflected ray, in radians

Pair: TypeAlias = tuple[float, float]
Boxes: TypeAlias = NDArray[np.int64]
_SURFACES = zlib.crc32(Path(surfaces.__file__).read_bytes())


def _njit(function: Callable[..., Any]) -> Any:
    """Compile a function that uses ``surfaces``.

    Numba's cache identifies a function by its name and checks only its own file for changes, so
    the version of ``surfaces`` is made part of the name.
    """
    function.__qualname__ += f"_{_SURFACES:08x}"
    return njit(**NUMBA_OPTIONS)(function)


@njit_inline
def _reflected(d: Vector, n: Vector, cosine: float) -> Vector:
    """Return the direction d mirrored at a surface with normal n; ``cosine`` is d · n."""
    return d[0] - 2 * cosine * n[0], d[1] - 2 * cosine * n[1], d[2] - 2 * cosine * n[2]


@njit_inline
def _is_occluded(
    objects: Array, lamps: Array, shadows: Array, lamp: int, spot: Pair, o: Vector, skip: int
) -> bool:
    """Return whether an object other than ``skip`` hides a point of a lamp from point o.

    ``skip`` is the object on which the point lies, or -1 on the ground, where only objects whose
    ``shadows`` contain the point are tested. ``spot`` in [-1, 1]² is the lamp's point.
    """
    to_lamp = (
        lamps[lamp, 0, 0] + spot[0] * lamps[lamp, 1, 0] + spot[1] * lamps[lamp, 2, 0] - o[0],
        lamps[lamp, 0, 1] + spot[0] * lamps[lamp, 1, 1] + spot[1] * lamps[lamp, 2, 1] - o[1],
        lamps[lamp, 0, 2] + spot[0] * lamps[lamp, 1, 2] + spot[1] * lamps[lamp, 2, 2] - o[2],
    )
    distance = math.sqrt(dot(to_lamp, to_lamp))
    d = scaled(to_lamp, distance)
    for i in range(len(objects)):
        if skip < 0 and not (
            shadows[lamp, i, 0] < o[0] < shadows[lamp, i, 1]
            and shadows[lamp, i, 2] < o[1] < shadows[lamp, i, 3]
        ):
            continue
        if i != skip and intersect(objects, i, o, d, distance) < distance:
            return True
    return False


@njit_inline
def _ambient_occlusion(objects: Array, o: Vector, n: Vector, skip: int) -> float:
    """Return the fraction of ambient light that reaches a point.

    All objects occlude it as spheres, except the object ``skip`` on which the point lies.
    """
    unoccluded = 1.0
    for i in range(len(objects)):
        if i == skip:
            continue
        v = (objects[i, X] - o[0], objects[i, Y] - o[1], objects[i, Z] - o[2])
        distance_squared = dot(v, v)
        radius_squared = objects[i, HALF_EXTENT] * objects[i, HALF_EXTENT]
        if distance_squared > 40.0 * radius_squared:
            continue
        distance_squared = max(distance_squared, radius_squared)
        cosine = dot(n, v) / math.sqrt(distance_squared)
        if cosine > 0.0:
            unoccluded *= 1.0 - min(cosine * radius_squared / distance_squared, 0.9)
    return unoccluded


@njit_inline
def _direct_light(
    objects: Array, lamps: Array, shadows: Array, o: Vector, n: Vector, v: Vector, skip: int,
    spot: Pair, gloss: float, light: Array,
) -> None:  # fmt: skip
    """Compute the light at a point with normal n that is viewed along direction v.

    The result is written to ``light`` (6,): diffuse RGB of lamps and ambient light, then the
    lamps' Phong highlight RGB with exponent ``gloss`` (0: no highlight). ``spot`` in [-1, 1]² is
    the sampled point of each lamp. Only shadows depend on it: elsewhere light comes from the
    lamps' centres, so that it has no noise.
    """
    red = green = blue = AMBIENT * _ambient_occlusion(objects, o, n, skip)
    specular_red = specular_green = specular_blue = 0.0
    mirrored = _reflected(v, n, dot(v, n))
    for lamp in range(len(lamps)):
        lx, ly, lz = lamps[lamp, 0, 0] - o[0], lamps[lamp, 0, 1] - o[1], lamps[lamp, 0, 2] - o[2]
        inverse_squared = 1.0 / (lx * lx + ly * ly + lz * lz)
        inverse_distance = math.sqrt(inverse_squared)
        d = (lx * inverse_distance, ly * inverse_distance, lz * inverse_distance)
        cos_surface = dot(d, n)
        cos_lamp = -dot(d, (lamps[lamp, 3, 0], lamps[lamp, 3, 1], lamps[lamp, 3, 2]))
        if (
            cos_surface <= 0.0
            or cos_lamp <= 0.0
            or _is_occluded(objects, lamps, shadows, lamp, spot, o, skip)
        ):
            continue
        irradiance = cos_lamp * inverse_squared
        red += lamps[lamp, 4, 0] * irradiance * cos_surface
        green += lamps[lamp, 4, 1] * irradiance * cos_surface
        blue += lamps[lamp, 4, 2] * irradiance * cos_surface
        if gloss > 0.0:
            specular = irradiance * max(dot(mirrored, d), 0.0) ** gloss
            specular_red += lamps[lamp, 4, 0] * specular
            specular_green += lamps[lamp, 4, 1] * specular
            specular_blue += lamps[lamp, 4, 2] * specular
    light[0], light[1], light[2] = red, green, blue
    light[3], light[4], light[5] = specular_red, specular_green, specular_blue


@njit_inline
def _shade_ground(
    objects: Array, lamps: Array, shadows: Array, o: Vector, d: Vector, spot: Pair, light: Array
) -> None:
    """Write the RGB radiance of the ground at the hit of a downward ray to ``light[0:3]``."""
    x, y, _ = ray_point(o, d, -o[2] / d[2])
    _direct_light(objects, lamps, shadows, (x, y, 0.0), (0.0, 0.0, 1.0), d, -1, spot, 0.0, light)


@_njit
def _shade_object(
    objects: Array, lamps: Array, shadows: Array, hit: int, t: float, o: Vector, d: Vector,
    spot: Pair, deviation: Pair, light: Array, weight: Array, radiance: Array,
) -> None:  # fmt: skip
    """Write the RGB radiance of object ``hit``, which a primary ray meets at t, to ``radiance``.

    The ray is followed from metal to metal up to ``REFLECTIONS`` times. ``deviation`` in [-1, 1]²
    is that of reflected rays, sideways and vertical, in units of ``ROUGHNESS``. ``light`` (6,) and
    ``weight`` (3,), the weight of what the ray meets next, are buffers.
    """
    for k in range(3):
        radiance[k], weight[k] = 0.0, 1.0
    for reflection in range(REFLECTIONS + 1):
        o = ray_point(o, d, t)
        n = surface_normal(objects, hit, o)
        metal = objects[hit, METAL] > 0.5
        _direct_light(
            objects, lamps, shadows, o, n, d, hit, spot, METAL_GLOSS if metal else RUBBER_GLOSS,
            light,
        )  # fmt: skip
        cos_view = dot(d, n)
        grazing = (1.0 - min(abs(cos_view), 1.0)) ** 5
        if not metal:
            for k in range(3):
                diffuse = RUBBER_DIFFUSE * objects[hit, RED + k] * light[k]
                gloss = RUBBER_HIGHLIGHT * light[3 + k] + RUBBER_SHEEN * grazing
                radiance[k] += weight[k] * (diffuse + gloss)
            return
        for k in range(3):
            tint = objects[hit, RED + k]
            lamps_seen = METAL_DIFFUSE * light[k] + METAL_HIGHLIGHT * light[3 + k]
            radiance[k] += weight[k] * tint * lamps_seen
            weight[k] *= METAL_MIRROR * tint + 0.1 * grazing
        dx, dy, dz = _reflected(d, n, cos_view)
        sideways, vertical = ROUGHNESS * deviation[0], ROUGHNESS * deviation[1]
        d = (dx - sideways * dy, dy + sideways * dx, dz + vertical)
        d = scaled(d, math.sqrt(dot(d, d)))
        if reflection < REFLECTIONS:
            hit, t = nearest_hit(objects, o, d, hit)
            if hit >= 0:
                continue
        if reflection < REFLECTIONS and d[2] < HORIZON:
            _shade_ground(objects, lamps, shadows, o, d, spot, light)
        else:
            light[0] = light[1] = light[2] = max(SKY_HORIZON - SKY_FALL * abs(d[2]), SKY_ZENITH)
        for k in range(3):
            radiance[k] += weight[k] * light[k]
        return


@njit_inline
def _primary_ray(
    camera: Array, focal: Array, shape: tuple[int, int], px: float, py: float
) -> Vector:
    """Return the direction of the ray through image point (px, py) in pixels."""
    u, v = (px - shape[1] / 2) / focal[0], -(py - shape[0] / 2) / focal[1]
    d = (
        camera[3, 0] + u * camera[1, 0] + v * camera[2, 0],
        camera[3, 1] + u * camera[1, 1] + v * camera[2, 1],
        camera[3, 2] + u * camera[1, 2] + v * camera[2, 2],
    )
    direction: Vector = scaled(d, math.sqrt(dot(d, d)))
    return direction


@njit_inline
def _primary_hit(
    objects: Array, boxes: Boxes, i: int, j: int, o: Vector, d: Vector
) -> tuple[int, float]:
    """Return index (-1: none) and distance of the nearest object along a ray of pixel (i, j)."""
    distance, hit = FAR, -1
    for n in range(len(objects)):
        if boxes[n, 0] <= j <= boxes[n, 1] and boxes[n, 2] <= i <= boxes[n, 3]:
            t = intersect(objects, n, o, d, distance)
            if t < distance:
                distance, hit = t, n
    return hit, distance


@_njit
def draw_mask(
    objects: Array, boxes: Boxes, camera: Array, focal: Array, mask: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Fill ``mask`` (H, W) with the object that each pixel's centre shows, or ``NO_OBJECT``.

    Returns
    -------
    visible
        Number of pixels of each object, (N,).
    """
    visible = np.zeros(len(objects), np.int64)
    o = (camera[0, 0], camera[0, 1], camera[0, 2])
    height, width = mask.shape
    for i in range(height):
        for j in range(width):
            d = _primary_ray(camera, focal, (height, width), j + 0.5, i + 0.5)
            hit, _ = _primary_hit(objects, boxes, i, j, o, d)
            if hit >= 0:
                visible[hit] += 1
                mask[i, j] = hit
            else:
                mask[i, j] = NO_OBJECT
    return visible


@_njit
def shade_image(
    objects: Array, lamps: Array, shadows: Array, boxes: Boxes, camera: Array, focal: Array,
    rays: int, linear: Array, ground: NDArray[np.bool_],
) -> None:  # fmt: skip
    """Fill ``linear`` (H, W, 3) with the mean radiance of ``rays``² samples per pixel.

    Pixels outside ``boxes`` have at most ``GROUND_RAYS``² samples. ``ground`` (H, W) is set where
    all samples show the ground.
    """
    height, width, _ = linear.shape
    light, weight, radiance = np.empty(6), np.empty(3), np.empty(6)
    o = (camera[0, 0], camera[0, 1], camera[0, 2])
    for i in range(height):
        for j in range(width):
            for k in range(3):
                linear[i, j, k] = 0.0
            ground[i, j] = True
            # The samples form a rotated grid on the lamp: no two have the same u or v. Each of
            # 3 × 3 neighbouring pixels shifts it differently, so that ``encode_image`` averages
            # over a rotated grid nine times as fine.
            shift_u = (i % 3 + (j % 3 + 0.5) / 3) / 3
            shift_v = (j % 3 + (2.5 - i % 3) / 3) / 3
            side = min(rays, GROUND_RAYS)
            for n in range(len(boxes)):
                if boxes[n, 0] <= j <= boxes[n, 1] and boxes[n, 2] <= i <= boxes[n, 3]:
                    side = rays
            step = 1.0 / side
            for a in range(side):
                for b in range(side):
                    px, py = j + (b + 0.5) * step, i + (a + 0.5) * step
                    d = _primary_ray(camera, focal, (height, width), px, py)
                    hit, t = _primary_hit(objects, boxes, i, j, o, d)
                    spot = (
                        2.0 * (a * side + b + shift_u) * step * step - 1.0,
                        2.0 * (b * side + side - 1 - a + shift_v) * step * step - 1.0,
                    )
                    if hit < 0:
                        _shade_ground(objects, lamps, shadows, o, d, spot, radiance)
                    else:
                        ground[i, j] = False
                        deviation = (2.0 * (px - j) - 1.0, 2.0 * (py - i) - 1.0)
                        _shade_object(
                            objects, lamps, shadows, hit, t, o, d, spot, deviation, light, weight,
                            radiance,
                        )  # fmt: skip
                    for k in range(3):
                        linear[i, j, k] += radiance[k] * step * step


@_njit
def encode_image(
    linear: Array, ground: NDArray[np.bool_], srgb: NDArray[np.uint8], image: NDArray[np.uint8]
) -> None:
    """Encode ``linear`` (H, W, 3) as sRGB; ``srgb`` (4096,) encodes the square root of light.

    Pixels of the ground become the mean of those among their 3 × 3 neighbours that are ground
    too, which makes penumbrae smooth.
    """
    height, width, _ = linear.shape
    pixel = np.empty(3)
    for i in range(height):
        for j in range(width):
            if ground[i, j]:
                pixel[:] = 0.0
                count = 0
                for y in range(max(i - 1, 0), min(i + 2, height)):
                    for x in range(max(j - 1, 0), min(j + 2, width)):
                        if ground[y, x]:
                            count += 1
                            for k in range(3):
                                pixel[k] += linear[y, x, k]
                for k in range(3):
                    pixel[k] /= count
            else:
                for k in range(3):
                    pixel[k] = linear[i, j, k]
            for k in range(3):
                image[i, j, k] = srgb[int(math.sqrt(min(pixel[k], 1.0)) * 4095 + 0.5)]
