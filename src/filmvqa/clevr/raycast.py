"""The compiled part of the renderer: rays, shapes and materials, for one image at a time.

Objects come as a table with a row each, whose columns are named below; lamps as rows of position,
two half edges, normal and power; shadows as their bounds on the ground.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from filmvqa.clevr.camera import Array

#: The mask's value where no object is seen.
NO_OBJECT = 255
SPHERE, CUBE, CYLINDER = range(3)
AMBIENT = 0.132
SKY = 0.1  # what a mirror sees above the horizon
BEVEL = 0.15  # of the half edge; CLEVR's cubes and cylinders have rounded edges
# The two materials, matched by eye to the release: Phong exponents and weights of the parts.
RUBBER_DIFFUSE, RUBBER_HIGHLIGHT, RUBBER_GLOSS = 1.25, 0.04, 10.0
METAL_DIFFUSE, METAL_HIGHLIGHT, METAL_GLOSS, METAL_MIRROR = 0.25, 9.0, 60.0, 0.75
EPSILON = 1e-4

#: Columns of the object table.
X, Y, Z, HALF, COS, SIN, SHAPE, METAL, RED, GREEN, BLUE, BOUND2 = range(12)
FAR = 1e30


# Called a million times an image with half a dozen arrays each, the small functions spend more
# time on passing arguments than on arithmetic unless LLVM inlines them.
_OPTIONS: dict[str, Any] = {"cache": True, "fastmath": True, "nogil": True, "error_model": "numpy"}
_entry = njit(**_OPTIONS)
_compiled = njit(**_OPTIONS, forceinline=True)


@_compiled
def _hit(
    objects: Array, i: int, ox: float, oy: float, oz: float,
    dx: float, dy: float, dz: float, far: float,
) -> float:  # fmt: skip
    """Distance along a unit ray to object i, or ``far`` if it is not nearer."""
    cx, cy, cz = ox - objects[i, X], oy - objects[i, Y], oz - objects[i, Z]
    along = cx * dx + cy * dy + cz * dz
    miss2 = cx * cx + cy * cy + cz * cz - along * along
    if miss2 > objects[i, BOUND2]:
        return far
    half = objects[i, HALF]
    if objects[i, SHAPE] == SPHERE:
        t = -along - math.sqrt(half * half - miss2)
        return t if EPSILON < t < far else far
    if objects[i, SHAPE] == CUBE:
        cos, sin = objects[i, COS], objects[i, SIN]
        lx, ly = cx * cos + cy * sin, cy * cos - cx * sin
        mx, my = dx * cos + dy * sin, dy * cos - dx * sin
        # A slab is crossed from -half to half: its middle and half its length along the ray.
        # A ray within 1e-9 of a face's plane is turned by as much, so that none divides by 0.
        ix = 1.0 / (mx if abs(mx) > 1e-9 else 1e-9)
        iy = 1.0 / (my if abs(my) > 1e-9 else 1e-9)
        iz = 1.0 / (dz if abs(dz) > 1e-9 else 1e-9)
        near = max(-lx * ix - half * abs(ix), -ly * iy - half * abs(iy), -cz * iz - half * abs(iz))
        exit_ = min(-lx * ix + half * abs(ix), -ly * iy + half * abs(iy), -cz * iz + half * abs(iz))
        if near > exit_:
            return far
        return near if EPSILON < near < far else far
    a = dx * dx + dy * dy
    b = cx * dx + cy * dy
    c = cx * cx + cy * cy - half * half
    best = far
    if a > 1e-12:
        root2 = b * b - a * c
        if root2 < 0.0:
            return far
        t = (-b - math.sqrt(root2)) / a
        if EPSILON < t < best and abs(cz + t * dz) <= half:
            best = t
    if abs(dz) > 1e-12:
        t = ((half if cz > 0 else -half) - cz) / dz
        if EPSILON < t < best:
            x, y = cx + t * dx, cy + t * dy
            if x * x + y * y <= half * half:
                best = t
    return best


@_compiled
def _normal(objects: Array, i: int, x: float, y: float, z: float) -> tuple[float, float, float]:
    """Unit outward normal at a surface point, turned smoothly over bevelled edges."""
    x, y, z = x - objects[i, X], y - objects[i, Y], z - objects[i, Z]
    half = objects[i, HALF]
    flat = half * (1.0 - BEVEL)
    if objects[i, SHAPE] == SPHERE:
        return x / half, y / half, z / half
    nz = math.copysign(max(abs(z) - flat, 0.0), z)
    if objects[i, SHAPE] == CUBE:
        cos, sin = objects[i, COS], objects[i, SIN]
        lx, ly = x * cos + y * sin, y * cos - x * sin
        lx = math.copysign(max(abs(lx) - flat, 0.0), lx)
        ly = math.copysign(max(abs(ly) - flat, 0.0), ly)
        nx, ny = lx * cos - ly * sin, lx * sin + ly * cos
    else:
        rho = math.sqrt(x * x + y * y) + 1e-12
        scale = max(rho - flat, 0.0) / rho
        nx, ny = x * scale, y * scale
    length = math.sqrt(nx * nx + ny * ny + nz * nz) + 1e-12
    return nx / length, ny / length, nz / length


@_compiled
def _nearest(
    objects: Array, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float, skip: int
) -> tuple[int, float]:
    """Index (-1: none) of and distance to the nearest object along a ray."""
    best, found = FAR, -1
    for i in range(len(objects)):
        if i != skip:
            t = _hit(objects, i, ox, oy, oz, dx, dy, dz, best)
            if t < best:
                best, found = t, i
    return found, best


@_compiled
def _blocked(
    objects: Array, shadows: Array, lamp: int, ox: float, oy: float, oz: float,
    dx: float, dy: float, dz: float, far: float, skip: int,
) -> bool:  # fmt: skip
    """Whether any object but ``skip`` (-1: the ray starts on the ground) hides the lamp."""
    for i in range(len(objects)):
        if skip < 0 and not (
            shadows[lamp, i, 0] < ox < shadows[lamp, i, 1]
            and shadows[lamp, i, 2] < oy < shadows[lamp, i, 3]
        ):
            continue
        if i != skip and _hit(objects, i, ox, oy, oz, dx, dy, dz, far) < far:
            return True
    return False


@_compiled
def _openness(
    objects: Array, x: float, y: float, z: float, nx: float, ny: float, nz: float, skip: int
) -> float:
    """Share of the ambient light that reaches a point past nearby objects, taken as spheres."""
    light = 1.0
    for i in range(len(objects)):
        if i == skip:
            continue
        vx, vy, vz = objects[i, X] - x, objects[i, Y] - y, objects[i, Z] - z
        d2 = vx * vx + vy * vy + vz * vz
        r2 = objects[i, HALF] * objects[i, HALF]
        if d2 > 40.0 * r2:
            continue
        d2 = max(d2, r2)
        toward = (nx * vx + ny * vy + nz * vz) / math.sqrt(d2)
        if toward > 0.0:
            light *= 1.0 - min(toward * r2 / d2, 0.9)
    return light


@_compiled
def _lit(
    objects: Array, lamps: Array, shadows: Array, x: float, y: float, z: float,
    nx: float, ny: float, nz: float, vx: float, vy: float, vz: float,
    skip: int, su: float, sv: float, gloss: float, light: Array,
) -> None:  # fmt: skip
    """Light at a point with unit normal n seen along the unit ray v.

    ``light[0:3]`` is diffuse RGB (lamps and ambient), ``light[3:6]`` the lamps' mirror-like
    highlight with exponent ``gloss``. (su, sv) in [-1, 1]² picks the point on each lamp.
    """
    red = green = blue = AMBIENT * _openness(objects, x, y, z, nx, ny, nz, skip)
    shine_red = shine_green = shine_blue = 0.0
    across = vx * nx + vy * ny + vz * nz
    rx, ry, rz = vx - 2 * across * nx, vy - 2 * across * ny, vz - 2 * across * nz
    for lamp in range(len(lamps)):
        lx = lamps[lamp, 0, 0] + su * lamps[lamp, 1, 0] + sv * lamps[lamp, 2, 0] - x
        ly = lamps[lamp, 0, 1] + su * lamps[lamp, 1, 1] + sv * lamps[lamp, 2, 1] - y
        lz = lamps[lamp, 0, 2] + su * lamps[lamp, 1, 2] + sv * lamps[lamp, 2, 2] - z
        d2 = lx * lx + ly * ly + lz * lz
        near = 1.0 / math.sqrt(d2)
        lx, ly, lz = lx * near, ly * near, lz * near
        cos = lx * nx + ly * ny + lz * nz
        emitted = -(lx * lamps[lamp, 3, 0] + ly * lamps[lamp, 3, 1] + lz * lamps[lamp, 3, 2])
        if cos <= 0.0 or emitted <= 0.0:
            continue
        if _blocked(objects, shadows, lamp, x, y, z, lx, ly, lz, d2 * near, skip):
            continue
        irradiance = emitted * near * near
        red += lamps[lamp, 4, 0] * irradiance * cos
        green += lamps[lamp, 4, 1] * irradiance * cos
        blue += lamps[lamp, 4, 2] * irradiance * cos
        if gloss > 0.0:
            shine = irradiance * max(rx * lx + ry * ly + rz * lz, 0.0) ** gloss
            shine_red += lamps[lamp, 4, 0] * shine
            shine_green += lamps[lamp, 4, 1] * shine
            shine_blue += lamps[lamp, 4, 2] * shine
    light[0], light[1], light[2] = red, green, blue
    light[3], light[4], light[5] = shine_red, shine_green, shine_blue


@_compiled
def _ground(
    objects: Array, lamps: Array, shadows: Array, ox: float, oy: float, oz: float,
    dx: float, dy: float, dz: float, su: float, sv: float, light: Array,
) -> None:  # fmt: skip
    """Radiance RGB, into ``light[0:3]``, of the ground where a falling ray meets it."""
    t = -oz / dz
    x, y = ox + t * dx, oy + t * dy
    _lit(
        objects, lamps, shadows, x, y, 0.0, 0.0, 0.0, 1.0, dx, dy, dz, -1, su, sv, 0.0, light
    )  # fmt: skip


@_compiled
def _reflected(
    objects: Array, lamps: Array, shadows: Array, found: int, t: float,
    ox: float, oy: float, oz: float, dx: float, dy: float, dz: float,
    su: float, sv: float, light: Array,
) -> None:  # fmt: skip
    """Radiance RGB, into ``light[0:3]``, that a mirror sees along a ray: matter, ground or sky.

    Seen in a mirror, metal passes for matter of its colour in front of the same sky.
    """
    if found < 0:
        if dz > -0.03:
            light[0] = light[1] = light[2] = SKY
        else:
            _ground(objects, lamps, shadows, ox, oy, oz, dx, dy, dz, su, sv, light)
        return
    x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
    nx, ny, nz = _normal(objects, found, x, y, z)
    metal = objects[found, METAL] > 0.5
    if metal:
        light[0] = light[1] = light[2] = SKY
    else:
        _lit(
            objects, lamps, shadows, x, y, z, nx, ny, nz, dx, dy, dz, found, su, sv, 0.0, light
        )  # fmt: skip
    scale = METAL_MIRROR if metal else RUBBER_DIFFUSE
    for k in range(3):
        light[k] *= scale * objects[found, RED + k]


@_entry
def _matter(
    objects: Array, lamps: Array, shadows: Array, found: int, t: float,
    ox: float, oy: float, oz: float, dx: float, dy: float, dz: float,
    su: float, sv: float, light: Array, color: Array,
) -> None:  # fmt: skip
    """Radiance RGB, into ``color``, of object ``found``, which a primary ray meets at t."""
    x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
    nx, ny, nz = _normal(objects, found, x, y, z)
    metal = objects[found, METAL] > 0.5
    gloss = METAL_GLOSS if metal else RUBBER_GLOSS
    _lit(
        objects, lamps, shadows, x, y, z, nx, ny, nz, dx, dy, dz, found, su, sv, gloss, light
    )  # fmt: skip
    if not metal:
        for k in range(3):
            diffuse = RUBBER_DIFFUSE * objects[found, RED + k] * light[k]
            color[k] = diffuse + RUBBER_HIGHLIGHT * light[3 + k]
        return
    across = dx * nx + dy * ny + dz * nz
    for k in range(3):
        tint = objects[found, RED + k]
        color[k] = METAL_DIFFUSE * tint * light[k]
        color[k] += METAL_HIGHLIGHT * (0.35 + 0.65 * tint) * light[3 + k]
    rx, ry, rz = dx - 2 * across * nx, dy - 2 * across * ny, dz - 2 * across * nz
    mirrored, far = _nearest(objects, x, y, z, rx, ry, rz, found)
    _reflected(objects, lamps, shadows, mirrored, far, x, y, z, rx, ry, rz, su, sv, light)
    fresnel = 0.1 * (1.0 - min(abs(across), 1.0)) ** 5
    for k in range(3):
        color[k] += (METAL_MIRROR * objects[found, RED + k] + fresnel) * light[k]


@_compiled
def _ray(
    eye: Array, focal: Array, width: int, height: int, px: float, py: float
) -> tuple[float, float, float]:
    """Unit direction of the ray through image point (px, py) in pixels."""
    u, v = (px - width / 2) / focal[0], -(py - height / 2) / focal[1]
    dx = eye[3, 0] + u * eye[1, 0] + v * eye[2, 0]
    dy = eye[3, 1] + u * eye[1, 1] + v * eye[2, 1]
    dz = eye[3, 2] + u * eye[1, 2] + v * eye[2, 2]
    length = math.sqrt(dx * dx + dy * dy + dz * dz)
    return dx / length, dy / length, dz / length


@_compiled
def _seen(
    objects: Array, boxes: NDArray[np.int64], eye: Array, i: int, j: int,
    dx: float, dy: float, dz: float,
) -> tuple[int, float]:  # fmt: skip
    """Nearest object along a primary ray of pixel (row i, column j), and its distance."""
    best, found = FAR, -1
    for n in range(len(objects)):
        if boxes[n, 0] <= j <= boxes[n, 1] and boxes[n, 2] <= i <= boxes[n, 3]:
            t = _hit(objects, n, eye[0, 0], eye[0, 1], eye[0, 2], dx, dy, dz, best)
            if t < best:
                best, found = t, n
    return found, best


@_entry
def draw_mask(
    objects: Array, boxes: NDArray[np.int64], eye: Array, focal: Array, mask: NDArray[np.uint8]
) -> NDArray[np.int64]:
    """Fill the mask with one ray through each pixel's centre; count each object's pixels."""
    visible = np.zeros(len(objects), np.int64)
    height, width = mask.shape
    for i in range(height):
        for j in range(width):
            dx, dy, dz = _ray(eye, focal, width, height, j + 0.5, i + 0.5)
            found, _ = _seen(objects, boxes, eye, i, j, dx, dy, dz)
            if found >= 0:
                visible[found] += 1
                mask[i, j] = found
            else:
                mask[i, j] = NO_OBJECT
    return visible


@_entry
def draw_image(
    objects: Array, boxes: NDArray[np.int64], eye: Array, focal: Array, lamps: Array,
    shadows: Array, rays: int, srgb: NDArray[np.uint8], image: NDArray[np.uint8],
) -> None:  # fmt: skip
    """Shade ``rays``² samples a pixel; each takes its own cell of every lamp."""
    height, width, _ = image.shape
    light, color, total = np.empty(6), np.empty(6), np.empty(3)
    share = 1.0 / (rays * rays)
    step, coarse = 1.0 / rays, 2.0 / rays
    for i in range(height):
        for j in range(width):
            for k in range(3):
                total[k] = 0.0
            # Where in its cell of the lamps a sample lies: interleaved gradient noise (Jimenez,
            # SIGGRAPH 2014), which turns banding in soft shadows into fine grain.
            noise_u = (52.9829189 * ((0.06711056 * j + 0.00583715 * i) % 1.0)) % 1.0
            noise_v = (52.9829189 * ((0.06711056 * i + 0.00583715 * j) % 1.0)) % 1.0
            for a in range(rays):
                for b in range(rays):
                    px, py = j + (b + 0.5) * step, i + (a + 0.5) * step
                    dx, dy, dz = _ray(eye, focal, width, height, px, py)
                    found, t = _seen(objects, boxes, eye, i, j, dx, dy, dz)
                    su = ((a + b) % rays + noise_u) * coarse - 1.0
                    sv = (a + noise_v) * coarse - 1.0
                    if found < 0:
                        _ground(
                            objects, lamps, shadows, eye[0, 0], eye[0, 1], eye[0, 2],
                            dx, dy, dz, su, sv, color,
                        )  # fmt: skip
                    else:
                        _matter(
                            objects, lamps, shadows, found, t, eye[0, 0], eye[0, 1], eye[0, 2],
                            dx, dy, dz, su, sv, light, color,
                        )  # fmt: skip
                    for k in range(3):
                        total[k] += color[k]
            for k in range(3):
                value = math.sqrt(min(total[k] * share, 1.0))
                image[i, j, k] = srgb[int(value * 4095 + 0.5)]
