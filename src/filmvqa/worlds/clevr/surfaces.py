"""The compiled geometry of the renderer: the surfaces of objects, and rays that meet them.

``objects`` (N, 12) has one row per object; the columns are named below. Points, directions and
normals are tuples: o is the origin of a ray, d is a unit direction.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit

from filmvqa.worlds.clevr.camera import Array
from filmvqa.worlds.clevr.scene_file import Vector
from filmvqa.worlds.clevr.scenes import PlacedObject

SPHERE, CUBE, CYLINDER = range(3)
CUBE_BEVEL, CYLINDER_BEVEL = 0.16, 0.04  # radii of rounded edges, in half extents
NEWTON_STEPS, NEWTON_TOLERANCE = 8, 1.001  # of rounded edges; the tolerance is in bevels
EPSILON = 1e-4

#: Columns of ``objects``: centre, half extent (radius of spheres and cylinders), cosine and sine of
#: the rotation, shape, metal (1) or rubber (0), linear RGB, squared radius of the bounding sphere.
X, Y, Z, HALF_EXTENT, COS, SIN, SHAPE, METAL, RED, GREEN, BLUE, BOUND_SQUARED = range(12)
FAR = 1e30  # distance of a ray that hits nothing

RGB = {
    "gray": (87, 87, 87),
    "red": (173, 35, 35),
    "blue": (42, 75, 215),
    "green": (29, 105, 20),
    "brown": (129, 74, 25),
    "purple": (129, 38, 192),
    "cyan": (41, 208, 208),
    "yellow": (255, 238, 51),
}
SHAPE_CODES = {"sphere": SPHERE, "cube": CUBE, "cylinder": CYLINDER}
#: Distance of a sharp corner from the centre and radius of the rounded edges, in half extents.
_CORNERS = {
    "sphere": (1.0, 0.0),
    "cube": (math.sqrt(3.0), CUBE_BEVEL),
    "cylinder": (math.sqrt(2.0), CYLINDER_BEVEL),
}

NUMBA_OPTIONS: dict[str, Any] = {
    "cache": True, "fastmath": True, "nogil": True, "error_model": "numpy",
}  # fmt: skip
# The small functions are called about a million times per image. Unless LLVM inlines them, passing
# their arguments takes longer than their arithmetic; passing an array does so even then.
njit_inline = njit(**NUMBA_OPTIONS, forceinline=True)


def tabulate_objects(placed: Sequence[PlacedObject]) -> Array:
    """Return ``objects`` (N, 12)."""
    table = np.zeros((len(placed), 12))
    angle = np.radians([o.rotation for o in placed])
    table[:, COS], table[:, SIN] = np.cos(angle), np.sin(angle)
    for row, thing in zip(table, placed, strict=True):
        row[[X, Y, Z, HALF_EXTENT]] = thing.x, thing.y, thing.half_extent, thing.half_extent
        row[SHAPE] = SHAPE_CODES[thing.shape]
        row[METAL] = thing.material == "metal"
        row[RED : BLUE + 1] = np.array(RGB[thing.color]) / 255.0
        corner, bevel = _CORNERS[thing.shape]
        row[BOUND_SQUARED] = (row[HALF_EXTENT] * (corner * (1.0 - bevel) + bevel)) ** 2
    return table


@njit_inline
def dot(a: Vector, b: Vector) -> float:
    return a[0] * b[0] + a[1] * b[1] + a[2] * b[2]


@njit_inline
def ray_point(o: Vector, d: Vector, t: float) -> Vector:
    """Return the point at distance t along a ray."""
    return o[0] + t * d[0], o[1] + t * d[1], o[2] + t * d[2]


@njit_inline
def scaled(v: Vector, length: float) -> Vector:
    return v[0] / length, v[1] / length, v[2] / length


@njit_inline
def _rotated(v: Vector, cos: float, sin: float) -> Vector:
    """Return v in axes that are rotated about the vertical."""
    return v[0] * cos + v[1] * sin, v[1] * cos - v[0] * sin, v[2]


@njit_inline
def intersect(objects: Array, i: int, o: Vector, d: Vector, far: float) -> float:
    """Return the distance along a ray to object i, or ``far`` if it is not nearer than that."""
    c = (o[0] - objects[i, X], o[1] - objects[i, Y], o[2] - objects[i, Z])
    projection = dot(c, d)
    miss_squared = dot(c, c) - projection * projection
    if miss_squared > objects[i, BOUND_SQUARED]:
        return far
    half_extent = objects[i, HALF_EXTENT]
    if objects[i, SHAPE] == SPHERE:
        t = -projection - math.sqrt(half_extent * half_extent - miss_squared)
        return t if EPSILON < t < far else far
    distance: float
    if objects[i, SHAPE] == CUBE:
        cos, sin = objects[i, COS], objects[i, SIN]
        distance = _intersect_cube(half_extent, _rotated(c, cos, sin), _rotated(d, cos, sin), far)
    else:
        distance = _intersect_cylinder(half_extent, c, d, far)
    return distance


@njit_inline
def _cross_slab(c: float, d: float, half_extent: float) -> tuple[float, float]:
    """Return where a ray from c enters and leaves the slab between two faces, along their normal.

    Components d below 1e-9 are replaced by 1e-9, to avoid division by zero.
    """
    inverse = 1.0 / (d if abs(d) > 1e-9 else 1e-9)
    return -c * inverse - half_extent * abs(inverse), -c * inverse + half_extent * abs(inverse)


@njit_inline
def _intersect_cube(half_extent: float, c: Vector, d: Vector, far: float) -> float:
    """Return the distance to a cube along a ray from c, relative to its centre and in its axes.

    The ray is first intersected with the cube without rounded edges. From there, Newton's method
    finds the rounded surface: its distance function is convex, so the steps never pass the surface,
    and the ray misses it once the distance no longer falls.
    """
    # The ray is inside all three slabs between the last entry and the first exit.
    enter_x, exit_x = _cross_slab(c[0], d[0], half_extent)
    enter_y, exit_y = _cross_slab(c[1], d[1], half_extent)
    enter_z, exit_z = _cross_slab(c[2], d[2], half_extent)
    t = max(enter_x, enter_y, enter_z, 0.0)
    if t > min(exit_x, exit_y, exit_z) or t >= far:
        return far
    bevel = CUBE_BEVEL * half_extent
    flat_extent = half_extent - bevel
    for _ in range(NEWTON_STEPS):
        x, y, z = ray_point(c, d, t)
        qx, qy = max(abs(x) - flat_extent, 0.0), max(abs(y) - flat_extent, 0.0)
        qz = max(abs(z) - flat_extent, 0.0)
        length = math.sqrt(qx * qx + qy * qy + qz * qz)
        if length <= bevel * NEWTON_TOLERANCE:
            break
        fall = -dot((math.copysign(qx, x), math.copysign(qy, y), math.copysign(qz, z)), d)
        if fall <= 0.0:
            return far
        t += (length - bevel) * length / fall
    return t if EPSILON < t < far else far


@njit_inline
def _intersect_cylinder(half_extent: float, c: Vector, d: Vector, far: float) -> float:
    """Return the distance to a cylinder along a ray from c, relative to its centre.

    As in ``_intersect_cube``, Newton's method starts at the cylinder without rounded edges.
    """
    a = d[0] * d[0] + d[1] * d[1]
    b = c[0] * d[0] + c[1] * d[1]
    t = far
    if a > 1e-12:
        discriminant = b * b - a * (c[0] * c[0] + c[1] * c[1] - half_extent * half_extent)
        if discriminant < 0.0:
            return far
        t_side = (-b - math.sqrt(discriminant)) / a
        if EPSILON < t_side < t and abs(c[2] + t_side * d[2]) <= half_extent:
            t = t_side
    if abs(d[2]) > 1e-12:
        t_cap = ((half_extent if c[2] > 0 else -half_extent) - c[2]) / d[2]
        if EPSILON < t_cap < t:
            x, y, _ = ray_point(c, d, t_cap)
            if x * x + y * y <= half_extent * half_extent:
                t = t_cap
    if t >= far:
        return far
    bevel = CYLINDER_BEVEL * half_extent
    flat_extent = half_extent - bevel
    for _ in range(NEWTON_STEPS):
        x, y, z = ray_point(c, d, t)
        rho = math.sqrt(x * x + y * y) + 1e-12
        q, qz = max(rho - flat_extent, 0.0), max(abs(z) - flat_extent, 0.0)
        length = math.sqrt(q * q + qz * qz)
        if length <= bevel * NEWTON_TOLERANCE:
            break
        fall = -(q * (x * d[0] + y * d[1]) / rho + math.copysign(qz, z) * d[2])
        if fall <= 0.0:
            return far
        t += (length - bevel) * length / fall
    return min(t, far)


@njit_inline
def surface_normal(objects: Array, i: int, o: Vector) -> Vector:
    """Return the outward normal at a surface point."""
    x, y, z = o[0] - objects[i, X], o[1] - objects[i, Y], o[2] - objects[i, Z]
    half_extent = objects[i, HALF_EXTENT]
    if objects[i, SHAPE] == SPHERE:
        return x / half_extent, y / half_extent, z / half_extent
    cube = objects[i, SHAPE] == CUBE
    flat_extent = half_extent * (1.0 - (CUBE_BEVEL if cube else CYLINDER_BEVEL))
    nz = math.copysign(max(abs(z) - flat_extent, 0.0), z)
    if cube:
        cos, sin = objects[i, COS], objects[i, SIN]
        lx, ly, _ = _rotated((x, y, z), cos, sin)
        lx = math.copysign(max(abs(lx) - flat_extent, 0.0), lx)
        ly = math.copysign(max(abs(ly) - flat_extent, 0.0), ly)
        nx, ny = lx * cos - ly * sin, lx * sin + ly * cos
    else:
        rho = math.sqrt(x * x + y * y) + 1e-12
        scale = max(rho - flat_extent, 0.0) / rho
        nx, ny = x * scale, y * scale
    normal: Vector = scaled((nx, ny, nz), math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12)
    return normal


@njit_inline
def nearest_hit(objects: Array, o: Vector, d: Vector, skip: int) -> tuple[int, float]:
    """Return index (-1: none) and distance of the nearest object along a ray, except ``skip``."""
    distance, hit = FAR, -1
    for i in range(len(objects)):
        if i != skip:
            t = intersect(objects, i, o, d, distance)
            if t < distance:
                distance, hit = t, i
    return hit, distance
