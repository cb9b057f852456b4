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

from filmvqa.worlds.clevr.camera import Array

#: Mask value of pixels that show no object.
NO_OBJECT = 255
SPHERE, CUBE, CYLINDER = range(3)
AMBIENT = 0.132  # ambient light at a point that nothing occludes
# Radiance that metal reflects from above: it falls with the vertical component of the direction,
# down to that of the zenith. Tops of metal objects reflect the dim wall behind the scene, their
# rounded edges a dark band.
SKY_HORIZON, SKY_FALL, SKY_ZENITH = 0.195, 0.2, 0.02
HORIZON = -0.1  # metal reflects the ground along directions that fall faster
REFLECTIONS = 2  # of one ray
GROUND_RAYS = 2  # per pixel and axis where no object can be seen
CUBE_BEVEL, CYLINDER_BEVEL = 0.16, 0.04  # radii of rounded edges, in half extents
NEWTON_STEPS, NEWTON_TOLERANCE = 8, 1.001  # of rounded edges; the tolerance is in bevels
# Weights of each material's components and Phong exponents (GLOSS), fitted by eye to the release.
# Objects seen at a grazing angle reflect more: SHEEN is what rubber would reflect of a gray ground.
RUBBER_DIFFUSE, RUBBER_HIGHLIGHT, RUBBER_GLOSS, RUBBER_SHEEN = 1.18, 0.04, 10.0, 0.09
METAL_DIFFUSE, METAL_HIGHLIGHT, METAL_GLOSS, METAL_MIRROR = 0.02, 18.0, 60.0, 0.95
ROUGHNESS = 0.05  # of metal: largest deviation of a reflected ray, in radians
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
    distance: float
    if objects[i, SHAPE] == CUBE:
        distance = _intersect_cube(objects, i, cx, cy, cz, dx, dy, dz, far)
    else:
        distance = _intersect_cylinder(half_extent, cx, cy, cz, dx, dy, dz, far)
    return distance


@_njit_inline
def _intersect_cube(
    objects: Array, i: int, cx: float, cy: float, cz: float,
    dx: float, dy: float, dz: float, far: float,
) -> float:  # fmt: skip
    """Return the distance to cube i along a ray from c, relative to the cube's centre.

    The ray is first intersected with the cube without rounded edges. From there, Newton's method
    finds the rounded surface: its distance function is convex, so the steps never pass the surface,
    and the ray misses it once the distance no longer falls.
    """
    half_extent = objects[i, HALF_EXTENT]
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
    t = max(t_enter, 0.0)
    if t > t_exit or t >= far:
        return far
    bevel = CUBE_BEVEL * half_extent
    flat_extent = half_extent - bevel
    for _ in range(NEWTON_STEPS):
        px, py, pz = lx + t * mx, ly + t * my, cz + t * dz
        qx, qy = max(abs(px) - flat_extent, 0.0), max(abs(py) - flat_extent, 0.0)
        qz = max(abs(pz) - flat_extent, 0.0)
        length = math.sqrt(qx * qx + qy * qy + qz * qz)
        if length <= bevel * NEWTON_TOLERANCE:
            break
        fall = -(
            math.copysign(qx, px) * mx + math.copysign(qy, py) * my + math.copysign(qz, pz) * dz
        )
        if fall <= 0.0:
            return far
        t += (length - bevel) * length / fall
    return t if EPSILON < t < far else far


@_njit_inline
def _intersect_cylinder(
    half_extent: float, cx: float, cy: float, cz: float,
    dx: float, dy: float, dz: float, far: float,
) -> float:  # fmt: skip
    """Return the distance to a cylinder along a ray from c, relative to its centre.

    As in ``_intersect_cube``, Newton's method starts at the cylinder without rounded edges.
    """
    a = dx * dx + dy * dy
    b = cx * dx + cy * dy
    c = cx * cx + cy * cy - half_extent * half_extent
    t = far
    if a > 1e-12:
        discriminant = b * b - a * c
        if discriminant < 0.0:
            return far
        t_side = (-b - math.sqrt(discriminant)) / a
        if EPSILON < t_side < t and abs(cz + t_side * dz) <= half_extent:
            t = t_side
    if abs(dz) > 1e-12:
        t_cap = ((half_extent if cz > 0 else -half_extent) - cz) / dz
        if EPSILON < t_cap < t:
            x, y = cx + t_cap * dx, cy + t_cap * dy
            if x * x + y * y <= half_extent * half_extent:
                t = t_cap
    if t >= far:
        return far
    bevel = CYLINDER_BEVEL * half_extent
    flat_extent = half_extent - bevel
    for _ in range(NEWTON_STEPS):
        px, py, pz = cx + t * dx, cy + t * dy, cz + t * dz
        rho = math.sqrt(px * px + py * py) + 1e-12
        q, qz = max(rho - flat_extent, 0.0), max(abs(pz) - flat_extent, 0.0)
        length = math.sqrt(q * q + qz * qz)
        if length <= bevel * NEWTON_TOLERANCE:
            break
        fall = -(q * (px * dx + py * dy) / rho + math.copysign(qz, pz) * dz)
        if fall <= 0.0:
            return far
        t += (length - bevel) * length / fall
    return min(t, far)


@_njit_inline
def _surface_normal(
    objects: Array, i: int, x: float, y: float, z: float
) -> tuple[float, float, float]:
    """Return the outward normal at a surface point."""
    x, y, z = x - objects[i, X], y - objects[i, Y], z - objects[i, Z]
    half_extent = objects[i, HALF_EXTENT]
    if objects[i, SHAPE] == SPHERE:
        return x / half_extent, y / half_extent, z / half_extent
    cube = objects[i, SHAPE] == CUBE
    flat_extent = half_extent * (1.0 - (CUBE_BEVEL if cube else CYLINDER_BEVEL))
    nz = math.copysign(max(abs(z) - flat_extent, 0.0), z)
    if cube:
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
    objects: Array, lamps: Array, shadows: Array, lamp: int, lamp_u: float, lamp_v: float,
    x: float, y: float, z: float, skip: int,
) -> bool:  # fmt: skip
    """Return whether an object other than ``skip`` hides a point of a lamp from point (x, y, z).

    ``skip`` is the object on which the point lies, or -1 on the ground, where only objects whose
    ``shadows`` contain the point are tested. (lamp_u, lamp_v) in [-1, 1]² is the lamp's point.
    """
    lx = lamps[lamp, 0, 0] + lamp_u * lamps[lamp, 1, 0] + lamp_v * lamps[lamp, 2, 0] - x
    ly = lamps[lamp, 0, 1] + lamp_u * lamps[lamp, 1, 1] + lamp_v * lamps[lamp, 2, 1] - y
    lz = lamps[lamp, 0, 2] + lamp_u * lamps[lamp, 1, 2] + lamp_v * lamps[lamp, 2, 2] - z
    distance = math.sqrt(lx * lx + ly * ly + lz * lz)
    lx, ly, lz = lx / distance, ly / distance, lz / distance
    for i in range(len(objects)):
        if skip < 0 and not (
            shadows[lamp, i, 0] < x < shadows[lamp, i, 1]
            and shadows[lamp, i, 2] < y < shadows[lamp, i, 3]
        ):
            continue
        if i != skip and _intersect(objects, i, x, y, z, lx, ly, lz, distance) < distance:
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
    [-1, 1]² is the sampled point of each lamp. Only shadows depend on it: elsewhere light comes
    from the lamps' centres, so that it has no noise.
    """
    red = green = blue = AMBIENT * _ambient_occlusion(objects, x, y, z, nx, ny, nz, skip)
    specular_red = specular_green = specular_blue = 0.0
    cos_view = vx * nx + vy * ny + vz * nz
    rx, ry, rz = vx - 2 * cos_view * nx, vy - 2 * cos_view * ny, vz - 2 * cos_view * nz
    for lamp in range(len(lamps)):
        lx, ly, lz = lamps[lamp, 0, 0] - x, lamps[lamp, 0, 1] - y, lamps[lamp, 0, 2] - z
        inverse_squared = 1.0 / (lx * lx + ly * ly + lz * lz)
        inverse_distance = math.sqrt(inverse_squared)
        lx, ly, lz = lx * inverse_distance, ly * inverse_distance, lz * inverse_distance
        cos_surface = lx * nx + ly * ny + lz * nz
        cos_lamp = -(lx * lamps[lamp, 3, 0] + ly * lamps[lamp, 3, 1] + lz * lamps[lamp, 3, 2])
        if cos_surface <= 0.0 or cos_lamp <= 0.0:
            continue
        if _is_occluded(objects, lamps, shadows, lamp, lamp_u, lamp_v, x, y, z, skip):
            continue
        irradiance = cos_lamp * inverse_squared
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


@_njit
def _shade_object(
    objects: Array, lamps: Array, shadows: Array, hit: int, t: float,
    ox: float, oy: float, oz: float, dx: float, dy: float, dz: float,
    lamp_u: float, lamp_v: float, rough_u: float, rough_v: float,
    light: Array, weight: Array, radiance: Array,
) -> None:  # fmt: skip
    """Write the RGB radiance of object ``hit``, which a primary ray meets at t, to ``radiance``.

    The ray is followed from metal to metal up to ``REFLECTIONS`` times. (rough_u, rough_v) in
    [-1, 1]² is the deviation of reflected rays in units of ``ROUGHNESS``. ``light`` (6,) and
    ``weight`` (3,), the weight of what the ray meets next, are buffers.
    """
    for k in range(3):
        radiance[k], weight[k] = 0.0, 1.0
    for reflection in range(REFLECTIONS + 1):
        ox, oy, oz = ox + t * dx, oy + t * dy, oz + t * dz
        nx, ny, nz = _surface_normal(objects, hit, ox, oy, oz)
        metal = objects[hit, METAL] > 0.5
        _direct_light(
            objects, lamps, shadows, ox, oy, oz, nx, ny, nz, dx, dy, dz, hit,
            lamp_u, lamp_v, METAL_GLOSS if metal else RUBBER_GLOSS, light,
        )  # fmt: skip
        cos_view = dx * nx + dy * ny + dz * nz
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
        dx, dy, dz = dx - 2 * cos_view * nx, dy - 2 * cos_view * ny, dz - 2 * cos_view * nz
        shift_u, shift_v = ROUGHNESS * rough_u, ROUGHNESS * rough_v  # sideways and vertical
        dx, dy, dz = dx - shift_u * dy, dy + shift_u * dx, dz + shift_v
        length = math.sqrt(dx * dx + dy * dy + dz * dz)
        dx, dy, dz = dx / length, dy / length, dz / length
        if reflection < REFLECTIONS:
            hit, t = _nearest_hit(objects, ox, oy, oz, dx, dy, dz, hit)
            if hit >= 0:
                continue
        if reflection < REFLECTIONS and dz < HORIZON:
            _shade_ground(objects, lamps, shadows, ox, oy, oz, dx, dy, dz, lamp_u, lamp_v, light)
        else:
            light[0] = light[1] = light[2] = max(SKY_HORIZON - SKY_FALL * abs(dz), SKY_ZENITH)
        for k in range(3):
            radiance[k] += weight[k] * light[k]
        return


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
    shadows: Array, rays: int, linear: Array, ground: NDArray[np.bool_],
) -> None:  # fmt: skip
    """Fill ``linear`` (H, W, 3) with the mean radiance of ``rays``² samples per pixel.

    Pixels outside ``boxes`` have at most ``GROUND_RAYS``² samples. ``ground`` (H, W) is set where
    all samples show the ground.
    """
    height, width, _ = linear.shape
    light, weight, radiance = np.empty(6), np.empty(3), np.empty(6)
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
                    dx, dy, dz = _primary_ray(camera, focal, width, height, px, py)
                    hit, t = _primary_hit(objects, boxes, camera, i, j, dx, dy, dz)
                    lamp_u = 2.0 * (a * side + b + shift_u) * step * step - 1.0
                    lamp_v = 2.0 * (b * side + side - 1 - a + shift_v) * step * step - 1.0
                    if hit < 0:
                        _shade_ground(
                            objects, lamps, shadows, camera[0, 0], camera[0, 1], camera[0, 2],
                            dx, dy, dz, lamp_u, lamp_v, radiance,
                        )  # fmt: skip
                    else:
                        ground[i, j] = False
                        _shade_object(
                            objects, lamps, shadows, hit, t,
                            camera[0, 0], camera[0, 1], camera[0, 2], dx, dy, dz,
                            lamp_u, lamp_v, 2.0 * (px - j) - 1.0, 2.0 * (py - i) - 1.0,
                            light, weight, radiance,
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
