"""The compiled part of the renderer: intersections, lighting and materials of one image.

Arrays that the functions share (N objects, L lamps):

- ``objects`` (N, 12): one row per object; the columns are named below.
- ``lamps`` (L, 5, 3): position, two half edges, normal and RGB power of each lamp.
- ``shadows`` (L, N, 4): ground bounds of each object's shadow (x low, x high, y low, y high).
- ``boxes`` (N, 4): inclusive pixel bounds of each object (left, right, top, bottom).
- ``camera`` (4, 3): position, right, up, forward.

Points, directions and normals are passed as three floats: o is the origin of a ray, d and v are
unit directions, n is a unit normal.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from filmvqa.clevr.camera import Array

#: Mask value of pixels that show no object.
NO_OBJECT = 255
SPHERE, CUBE, CYLINDER = range(3)
AMBIENT = 0.132  # ambient light at a point that nothing occludes
SKY_RADIANCE = 0.1  # reflected by metal above the horizon
BEVEL = 0.15  # radius of rounded edges of cubes and cylinders, in half extents
# Weights of each material's components and Phong exponents (GLOSS), fitted by eye to the release.
RUBBER_DIFFUSE, RUBBER_HIGHLIGHT, RUBBER_GLOSS = 1.25, 0.04, 10.0
METAL_DIFFUSE, METAL_HIGHLIGHT, METAL_GLOSS, METAL_MIRROR = 0.25, 9.0, 60.0, 0.75
EPSILON = 1e-4

#: Columns of ``objects``: centre, half extent (radius of spheres and cylinders), cosine and sine of
#: the rotation, shape, metal (1) or rubber (0), linear RGB, squared radius of the bounding sphere.
X, Y, Z, HALF_EXTENT, COS, SIN, SHAPE, METAL, RED, GREEN, BLUE, BOUND_SQUARED = range(12)
FAR = 1e30  # distance of a ray that hits nothing


# The small functions are called about a million times per image. Unless LLVM inlines them, passing
# their arguments takes longer than their arithmetic.
_NUMBA_OPTIONS: dict[str, Any] = {
    "cache": True, "fastmath": True, "nogil": True, "error_model": "numpy",
}  # fmt: skip
_njit = njit(**_NUMBA_OPTIONS)
_njit_inline = njit(**_NUMBA_OPTIONS, forceinline=True)


@_njit_inline
def _intersect(
    objects: Array, i: int, ox: float, oy: float, oz: float,
    dx: float, dy: float, dz: float, far: float,
) -> float:  # fmt: skip
    """Return the distance along a ray to object i, or ``far`` if it is not nearer than that."""
    cx, cy, cz = ox - objects[i, X], oy - objects[i, Y], oz - objects[i, Z]
    projection = cx * dx + cy * dy + cz * dz
    miss_squared = cx * cx + cy * cy + cz * cz - projection * projection
    if miss_squared > objects[i, BOUND_SQUARED]:
        return far
    half_extent = objects[i, HALF_EXTENT]
    if objects[i, SHAPE] == SPHERE:
        t = -projection - math.sqrt(half_extent * half_extent - miss_squared)
        return t if EPSILON < t < far else far
    if objects[i, SHAPE] == CUBE:
        cos, sin = objects[i, COS], objects[i, SIN]
        lx, ly = cx * cos + cy * sin, cy * cos - cx * sin
        mx, my = dx * cos + dy * sin, dy * cos - dx * sin
        # Slab method: the ray is inside all three slabs between t_enter and t_exit. Components
        # below 1e-9 are replaced by 1e-9, to avoid division by zero.
        ix = 1.0 / (mx if abs(mx) > 1e-9 else 1e-9)
        iy = 1.0 / (my if abs(my) > 1e-9 else 1e-9)
        iz = 1.0 / (dz if abs(dz) > 1e-9 else 1e-9)
        t_enter = max(
            -lx * ix - half_extent * abs(ix),
            -ly * iy - half_extent * abs(iy),
            -cz * iz - half_extent * abs(iz),
        )
        t_exit = min(
            -lx * ix + half_extent * abs(ix),
            -ly * iy + half_extent * abs(iy),
            -cz * iz + half_extent * abs(iz),
        )
        if t_enter > t_exit:
            return far
        return t_enter if EPSILON < t_enter < far else far
    a = dx * dx + dy * dy
    b = cx * dx + cy * dy
    c = cx * cx + cy * cy - half_extent * half_extent
    nearest = far
    if a > 1e-12:
        discriminant = b * b - a * c
        if discriminant < 0.0:
            return far
        t = (-b - math.sqrt(discriminant)) / a
        if EPSILON < t < nearest and abs(cz + t * dz) <= half_extent:
            nearest = t
    if abs(dz) > 1e-12:
        t = ((half_extent if cz > 0 else -half_extent) - cz) / dz
        if EPSILON < t < nearest:
            x, y = cx + t * dx, cy + t * dy
            if x * x + y * y <= half_extent * half_extent:
                nearest = t
    return nearest


@_njit_inline
def _surface_normal(
    objects: Array, i: int, x: float, y: float, z: float
) -> tuple[float, float, float]:
    """Return the outward normal at a surface point; it turns smoothly over rounded edges."""
    x, y, z = x - objects[i, X], y - objects[i, Y], z - objects[i, Z]
    half_extent = objects[i, HALF_EXTENT]
    flat_extent = half_extent * (1.0 - BEVEL)
    if objects[i, SHAPE] == SPHERE:
        return x / half_extent, y / half_extent, z / half_extent
    nz = math.copysign(max(abs(z) - flat_extent, 0.0), z)
    if objects[i, SHAPE] == CUBE:
        cos, sin = objects[i, COS], objects[i, SIN]
        lx, ly = x * cos + y * sin, y * cos - x * sin
        lx = math.copysign(max(abs(lx) - flat_extent, 0.0), lx)
        ly = math.copysign(max(abs(ly) - flat_extent, 0.0), ly)
        nx, ny = lx * cos - ly * sin, lx * sin + ly * cos
    else:
        rho = math.sqrt(x * x + y * y) + 1e-12
        scale = max(rho - flat_extent, 0.0) / rho
        nx, ny = x * scale, y * scale
    length = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
    return nx / length, ny / length, nz / length


@_njit_inline
def _nearest_hit(
    objects: Array, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float, skip: int
) -> tuple[int, float]:
    """Return index (-1: none) and distance of the nearest object along a ray, except ``skip``."""
    distance, hit = FAR, -1
    for i in range(len(objects)):
        if i != skip:
            t = _intersect(objects, i, ox, oy, oz, dx, dy, dz, distance)
            if t < distance:
                distance, hit = t, i
    return hit, distance


@_njit_inline
def _is_occluded(
    objects: Array, shadows: Array, lamp: int, ox: float, oy: float, oz: float,
    dx: float, dy: float, dz: float, far: float, skip: int,
) -> bool:  # fmt: skip
    """Return whether an object other than ``skip`` hides the lamp from a point.

    ``skip`` is the object on which the point lies, or -1 on the ground, where only objects whose
    ``shadows`` contain the point are tested.
    """
    for i in range(len(objects)):
        if skip < 0 and not (
            shadows[lamp, i, 0] < ox < shadows[lamp, i, 1]
            and shadows[lamp, i, 2] < oy < shadows[lamp, i, 3]
        ):
            continue
        if i != skip and _intersect(objects, i, ox, oy, oz, dx, dy, dz, far) < far:
            return True
    return False


@_njit_inline
def _ambient_occlusion(
    objects: Array, x: float, y: float, z: float, nx: float, ny: float, nz: float, skip: int
) -> float:
    """Return the fraction of ambient light that reaches a point.

    All objects occlude it as spheres, except the object ``skip`` on which the point lies.
    """
    unoccluded = 1.0
    for i in range(len(objects)):
        if i == skip:
            continue
        vx, vy, vz = objects[i, X] - x, objects[i, Y] - y, objects[i, Z] - z
        distance_squared = vx * vx + vy * vy + vz * vz
        radius_squared = objects[i, HALF_EXTENT] * objects[i, HALF_EXTENT]
        if distance_squared > 40.0 * radius_squared:
            continue
        distance_squared = max(distance_squared, radius_squared)
        cosine = (nx * vx + ny * vy + nz * vz) / math.sqrt(distance_squared)
        if cosine > 0.0:
            unoccluded *= 1.0 - min(cosine * radius_squared / distance_squared, 0.9)
    return unoccluded


@_njit_inline
def _direct_light(
    objects: Array, lamps: Array, shadows: Array, x: float, y: float, z: float,
    nx: float, ny: float, nz: float, vx: float, vy: float, vz: float,
    skip: int, lamp_u: float, lamp_v: float, gloss: float, light: Array,
) -> None:  # fmt: skip
    """Compute the light at a point with normal n that is viewed along direction v.

    The result is written to ``light`` (6,): diffuse RGB of lamps and ambient light, then the
    lamps' Phong highlight RGB with exponent ``gloss`` (0: no highlight). (lamp_u, lamp_v) in
    [-1, 1]² is the sampled point of each lamp.
    """
    red = green = blue = AMBIENT * _ambient_occlusion(objects, x, y, z, nx, ny, nz, skip)
    specular_red = specular_green = specular_blue = 0.0
    cos_view = vx * nx + vy * ny + vz * nz
    rx, ry, rz = vx - 2 * cos_view * nx, vy - 2 * cos_view * ny, vz - 2 * cos_view * nz
    for lamp in range(len(lamps)):
        lx = lamps[lamp, 0, 0] + lamp_u * lamps[lamp, 1, 0] + lamp_v * lamps[lamp, 2, 0] - x
        ly = lamps[lamp, 0, 1] + lamp_u * lamps[lamp, 1, 1] + lamp_v * lamps[lamp, 2, 1] - y
        lz = lamps[lamp, 0, 2] + lamp_u * lamps[lamp, 1, 2] + lamp_v * lamps[lamp, 2, 2] - z
        distance_squared = lx * lx + ly * ly + lz * lz
        inverse_distance = 1.0 / math.sqrt(distance_squared)
        lx, ly, lz = lx * inverse_distance, ly * inverse_distance, lz * inverse_distance
        cos_surface = lx * nx + ly * ny + lz * nz
        cos_lamp = -(lx * lamps[lamp, 3, 0] + ly * lamps[lamp, 3, 1] + lz * lamps[lamp, 3, 2])
        if cos_surface <= 0.0 or cos_lamp <= 0.0:
            continue
        distance = distance_squared * inverse_distance
        if _is_occluded(objects, shadows, lamp, x, y, z, lx, ly, lz, distance, skip):
            continue
        irradiance = cos_lamp * inverse_distance * inverse_distance
        red += lamps[lamp, 4, 0] * irradiance * cos_surface
        green += lamps[lamp, 4, 1] * irradiance * cos_surface
        blue += lamps[lamp, 4, 2] * irradiance * cos_surface
        if gloss > 0.0:
            specular = irradiance * max(rx * lx + ry * ly + rz * lz, 0.0) ** gloss
            specular_red += lamps[lamp, 4, 0] * specular
            specular_green += lamps[lamp, 4, 1] * specular
            specular_blue += lamps[lamp, 4, 2] * specular
    light[0], light[1], light[2] = red, green, blue
    light[3], light[4], light[5] = specular_red, specular_green, specular_blue


@_njit_inline
def _shade_ground(
    objects: Array, lamps: Array, shadows: Array, ox: float, oy: float, oz: float,
    dx: float, dy: float, dz: float, lamp_u: float, lamp_v: float, light: Array,
) -> None:  # fmt: skip
    """Write the RGB radiance of the ground, where a downward ray meets it, to ``light[0:3]``."""
    t = -oz / dz
    x, y = ox + t * dx, oy + t * dy
    _direct_light(
        objects, lamps, shadows, x, y, 0.0, 0.0, 0.0, 1.0, dx, dy, dz, -1,
        lamp_u, lamp_v, 0.0, light,
    )  # fmt: skip


@_njit_inline
def _shade_reflection(
    objects: Array, lamps: Array, shadows: Array, hit: int, t: float,
    ox: float, oy: float, oz: float, dx: float, dy: float, dz: float,
    lamp_u: float, lamp_v: float, light: Array,
) -> None:  # fmt: skip
    """Write the RGB radiance along a reflected ray to ``light[0:3]``.

    ``hit`` is the object at distance t, or -1 for the ground or the sky. There is one reflection
    only: metal that is visible in metal reflects the sky.
    """
    if hit < 0:
        if dz > -0.03:
            light[0] = light[1] = light[2] = SKY_RADIANCE
        else:
            _shade_ground(objects, lamps, shadows, ox, oy, oz, dx, dy, dz, lamp_u, lamp_v, light)
        return
    x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
    nx, ny, nz = _surface_normal(objects, hit, x, y, z)
    metal = objects[hit, METAL] > 0.5
    if metal:
        light[0] = light[1] = light[2] = SKY_RADIANCE
    else:
        _direct_light(
            objects, lamps, shadows, x, y, z, nx, ny, nz, dx, dy, dz, hit,
            lamp_u, lamp_v, 0.0, light,
        )  # fmt: skip
    scale = METAL_MIRROR if metal else RUBBER_DIFFUSE
    for k in range(3):
        light[k] *= scale * objects[hit, RED + k]


@_njit
def _shade_object(
    objects: Array, lamps: Array, shadows: Array, hit: int, t: float,
    ox: float, oy: float, oz: float, dx: float, dy: float, dz: float,
    lamp_u: float, lamp_v: float, light: Array, radiance: Array,
) -> None:  # fmt: skip
    """Write the RGB radiance of object ``hit``, which a primary ray meets at t, to ``radiance``.

    ``light`` (6,) is a buffer.
    """
    x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
    nx, ny, nz = _surface_normal(objects, hit, x, y, z)
    metal = objects[hit, METAL] > 0.5
    gloss = METAL_GLOSS if metal else RUBBER_GLOSS
    _direct_light(
        objects, lamps, shadows, x, y, z, nx, ny, nz, dx, dy, dz, hit,
        lamp_u, lamp_v, gloss, light,
    )  # fmt: skip
    if not metal:
        for k in range(3):
            diffuse = RUBBER_DIFFUSE * objects[hit, RED + k] * light[k]
            radiance[k] = diffuse + RUBBER_HIGHLIGHT * light[3 + k]
        return
    cos_view = dx * nx + dy * ny + dz * nz
    for k in range(3):
        tint = objects[hit, RED + k]
        radiance[k] = METAL_DIFFUSE * tint * light[k]
        radiance[k] += METAL_HIGHLIGHT * (0.35 + 0.65 * tint) * light[3 + k]
    rx, ry, rz = dx - 2 * cos_view * nx, dy - 2 * cos_view * ny, dz - 2 * cos_view * nz
    mirror_hit, mirror_distance = _nearest_hit(objects, x, y, z, rx, ry, rz, hit)
    _shade_reflection(
        objects, lamps, shadows, mirror_hit, mirror_distance, x, y, z, rx, ry, rz,
        lamp_u, lamp_v, light,
    )  # fmt: skip
    fresnel = 0.1 * (1.0 - min(abs(cos_view), 1.0)) ** 5
    for k in range(3):
        radiance[k] += (METAL_MIRROR * objects[hit, RED + k] + fresnel) * light[k]


@_njit_inline
def _primary_ray(
    camera: Array, focal: Array, width: int, height: int, px: float, py: float
) -> tuple[float, float, float]:
    """Return the direction of the ray through image point (px, py) in pixels."""
    u, v = (px - width / 2) / focal[0], -(py - height / 2) / focal[1]
    dx = camera[3, 0] + u * camera[1, 0] + v * camera[2, 0]
    dy = camera[3, 1] + u * camera[1, 1] + v * camera[2, 1]
    dz = camera[3, 2] + u * camera[1, 2] + v * camera[2, 2]
    length = math.sqrt(dx * dx + dy * dy + dz * dz)
    return dx / length, dy / length, dz / length


@_njit_inline
def _primary_hit(
    objects: Array, boxes: NDArray[np.int64], camera: Array, i: int, j: int,
    dx: float, dy: float, dz: float,
) -> tuple[int, float]:  # fmt: skip
    """Return index (-1: none) and distance of the nearest object along a ray of pixel (i, j)."""
    distance, hit = FAR, -1
    for n in range(len(objects)):
        if boxes[n, 0] <= j <= boxes[n, 1] and boxes[n, 2] <= i <= boxes[n, 3]:
            t = _intersect(
                objects, n, camera[0, 0], camera[0, 1], camera[0, 2], dx, dy, dz, distance
            )
            if t < distance:
                distance, hit = t, n
    return hit, distance


@_njit
def draw_mask(
    objects: Array, boxes: NDArray[np.int64], camera: Array, focal: Array, mask: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Fill ``mask`` (H, W) with the object that each pixel's centre shows, or ``NO_OBJECT``.

    Returns
    -------
    visible
        Number of pixels of each object, (N,).
    """
    visible = np.zeros(len(objects), np.int64)
    height, width = mask.shape
    for i in range(height):
        for j in range(width):
            dx, dy, dz = _primary_ray(camera, focal, width, height, j + 0.5, i + 0.5)
            hit, _ = _primary_hit(objects, boxes, camera, i, j, dx, dy, dz)
            if hit >= 0:
                visible[hit] += 1
                mask[i, j] = hit
            else:
                mask[i, j] = NO_OBJECT
    return visible


@_njit
def shade_image(
    objects: Array, boxes: NDArray[np.int64], camera: Array, focal: Array, lamps: Array,
    shadows: Array, rays: int, srgb: NDArray[np.uint8], image: NDArray[np.uint8],
) -> None:  # fmt: skip
    """Fill ``image`` (H, W, 3) with the mean of ``rays``² samples per pixel.

    ``srgb`` (4096,) encodes the square root of linear light. Each lamp is divided into ``rays``²
    cells, one for each sample of a pixel.
    """
    height, width, _ = image.shape
    light, radiance, pixel = np.empty(6), np.empty(6), np.empty(3)
    weight = 1.0 / (rays * rays)
    sample_step, cell_size = 1.0 / rays, 2.0 / rays
    for i in range(height):
        for j in range(width):
            for k in range(3):
                pixel[k] = 0.0
            # Position of the samples in their lamp cells: interleaved gradient noise (Jimenez,
            # SIGGRAPH 2014), which avoids banding in soft shadows.
            noise_u = (52.9829189 * ((0.06711056 * j + 0.00583715 * i) % 1.0)) % 1.0
            noise_v = (52.9829189 * ((0.06711056 * i + 0.00583715 * j) % 1.0)) % 1.0
            for a in range(rays):
                for b in range(rays):
                    px, py = j + (b + 0.5) * sample_step, i + (a + 0.5) * sample_step
                    dx, dy, dz = _primary_ray(camera, focal, width, height, px, py)
                    hit, t = _primary_hit(objects, boxes, camera, i, j, dx, dy, dz)
                    lamp_u = ((a + b) % rays + noise_u) * cell_size - 1.0
                    lamp_v = (a + noise_v) * cell_size - 1.0
                    if hit < 0:
                        _shade_ground(
                            objects, lamps, shadows, camera[0, 0], camera[0, 1], camera[0, 2],
                            dx, dy, dz, lamp_u, lamp_v, radiance,
                        )  # fmt: skip
                    else:
                        _shade_object(
                            objects, lamps, shadows, hit, t,
                            camera[0, 0], camera[0, 1], camera[0, 2], dx, dy, dz,
                            lamp_u, lamp_v, light, radiance,
                        )  # fmt: skip
                    for k in range(3):
                        pixel[k] += radiance[k]
            for k in range(3):
                root = math.sqrt(min(pixel[k] * weight, 1.0))
                image[i, j, k] = srgb[int(root * 4095 + 0.5)]
