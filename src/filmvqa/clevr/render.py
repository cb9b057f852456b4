"""The ray caster: CLEVR's ground, lamps, rubber and metal, compiled with numba.

Every primary ray finds the nearest object; what it hits is lit by three area lamps with soft
shadows and by an ambient term that nearby objects occlude; metal also reflects its
surroundings. Lamp powers and the ambient level were fitted to the ground of three images of the
release (median error 0.005 in linear light); object colours are CLEVR's own, read as linear
light as Blender reads them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from filmvqa.clevr.camera import Array
from filmvqa.clevr.scenes import Layout

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
SHAPE_CODES = {"sphere": 0, "cube": 1, "cylinder": 2}
#: The mask's value where no object is seen.
NO_OBJECT = 255

#: Radiance of the ground per unit of a lamp's irradiance, RGB: key, fill, back.
LAMP_POWERS = np.array([[5.4, 4.85, 4.1], [0.65, 0.75, 0.95], [2.6, 2.6, 2.65]])
LAMP_HALF_WIDTH = 0.7
AMBIENT = 0.132
SKY = 0.1
BEVEL = 0.15  # of the half edge; CLEVR's cubes and cylinders have rounded edges
# The two materials, matched by eye to the release: Phong exponents and weights of the parts.
RUBBER_DIFFUSE, RUBBER_HIGHLIGHT, RUBBER_GLOSS = 1.25, 0.04, 10.0
METAL_DIFFUSE, METAL_HIGHLIGHT, METAL_GLOSS, METAL_MIRROR = 0.25, 9.0, 60.0, 0.75
EPSILON = 1e-4

# Columns of the object table that the compiled code reads.
_X, _Y, _Z, _HALF, _COS, _SIN, _SHAPE, _METAL, _RED, _GREEN, _BLUE, _BOUND2 = range(12)
_FAR = 1e30


# Called a million times an image with half a dozen arrays each, the small functions spend more
# time on passing arguments than on arithmetic unless LLVM inlines them.
_OPTIONS: dict[str, Any] = {"cache": True, "fastmath": True, "nogil": True, "error_model": "numpy"}
_entry = njit(**_OPTIONS)
_compiled = njit(**_OPTIONS, forceinline=True)


@dataclass(frozen=True)
class Rendered:
    """An image (H, W, 3) uint8, its mask (H, W) uint8 (index of the object that the pixel's
    centre shows, or ``NO_OBJECT``) and the visible pixels of each object (N,)."""

    image: NDArray[np.uint8]
    mask: NDArray[np.uint8]
    visible: NDArray[np.int64]


def render(
    layout: Layout, width: int, height: int, rays: int = 2, min_visible: int = 0
) -> Rendered | None:
    """Render a layout with ``rays`` × ``rays`` rays a pixel.

    The mask comes first; if an object shows fewer than ``min_visible`` pixels, nothing is
    shaded and the result is None.
    """
    objects = _object_table(layout)
    camera = layout.camera
    eye = np.stack([camera.position, camera.right, camera.up, camera.forward])
    focal = np.array(camera.focal_lengths(width, height))
    mask = np.empty((height, width), np.uint8)
    boxes = _screen_boxes(objects, eye, focal, width, height)
    visible = _draw_mask(objects, boxes, eye, focal, mask)
    if len(visible) and visible.min() < min_visible:
        return None
    image = np.empty((height, width, 3), np.uint8)
    lamps = _lamp_table(layout.lamps)
    shadows = _shadow_boxes(objects, lamps)
    _draw_image(objects, boxes, eye, focal, lamps, shadows, rays, _SRGB, image)
    return Rendered(image, mask, visible)


def _object_table(layout: Layout) -> Array:
    table = np.zeros((len(layout.half), 12))
    table[:, _X : _Z + 1] = layout.centres()
    table[:, _HALF] = layout.half
    angle = np.radians(layout.rotation)
    table[:, _COS], table[:, _SIN] = np.cos(angle), np.sin(angle)
    for row, shape, material, color in zip(
        table, layout.shape, layout.material, layout.color, strict=True
    ):
        row[_SHAPE] = SHAPE_CODES[shape]
        row[_METAL] = material == "metal"
        row[_RED : _BLUE + 1] = np.array(RGB[color]) / 255.0
        row[_BOUND2] = row[_HALF] ** 2 * {"sphere": 1.0, "cube": 3.0, "cylinder": 2.0}[shape]
    return table


def _lamp_table(lamps: Array) -> Array:
    """Rows (position, edge u, edge v, normal towards the origin, power), each (3,): (L, 5, 3)."""
    table = np.empty((len(lamps), 5, 3))
    for row, position, power in zip(table, lamps, LAMP_POWERS, strict=True):
        normal = -position / np.linalg.norm(position)
        u = np.cross(normal, (0.0, 0.0, 1.0))
        u /= np.linalg.norm(u)
        row[:] = position, LAMP_HALF_WIDTH * u, LAMP_HALF_WIDTH * np.cross(normal, u), normal, power
    return table


def _shadow_boxes(objects: Array, lamps: Array) -> Array:
    """Bounds (x low, x high, y low, y high) on the ground of the shadow that each object's
    bounding sphere casts from anywhere on each lamp: (L, N, 4).

    The place where a lamp point throws a sphere point is a ratio of affine functions of the lamp
    point, so its extremes over a lamp are at the lamp's corners.
    """
    boxes = np.empty((len(lamps), len(objects), 4))
    boxes[..., ::2], boxes[..., 1::2] = _FAR, -_FAR
    corners = [(a, b) for a in (-1, 1) for b in (-1, 1)]
    for lamp, table in zip(lamps, boxes, strict=True):
        for row, box in zip(objects, table, strict=True):
            radius = math.sqrt(row[_BOUND2])
            for a, b in corners:
                point = lamp[0] + a * lamp[1] + b * lamp[2]
                if point[2] <= row[_Z] + radius:  # not above the sphere: no end to its shadow
                    box[:] = -_FAR, _FAR, -_FAR, _FAR
                    break
                for k in (0, 1):
                    low, high = _tangents(row[k] - point[k], point[2] - row[_Z], radius)
                    box[2 * k] = min(box[2 * k], point[k] + point[2] * low)
                    box[2 * k + 1] = max(box[2 * k + 1], point[k] + point[2] * high)
    return boxes


def _tangents(side: float, depth: float, radius: float) -> tuple[float, float]:
    """Slopes side/depth of the lines from the origin that touch a circle; depth > radius."""
    below = depth * depth - radius * radius
    root = radius * math.sqrt(side * side + below)
    return (side * depth - root) / below, (side * depth + root) / below


def _srgb_table() -> NDArray[np.uint8]:
    """sRGB code of linear light: index i stands for (i / 4095)²."""
    linear = (np.arange(4096) / 4095.0) ** 2
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return np.asarray(np.round(255 * encoded), np.uint8)


_SRGB = _srgb_table()


def _screen_boxes(
    objects: Array, eye: Array, focal: Array, width: int, height: int
) -> NDArray[np.int64]:
    """Pixel bounds (left, right, top, bottom), inclusive, of each object's bounding sphere:
    (N, 4)."""
    boxes = np.empty((len(objects), 4), np.int64)
    for box, row in zip(boxes, objects, strict=True):
        offset = row[_X : _Z + 1] - eye[0]
        depth, radius = float(offset @ eye[3]), math.sqrt(row[_BOUND2])
        for k, axis, size in ((0, eye[1], width), (1, -eye[2], height)):
            box[2 * k : 2 * k + 2] = 0, size - 1
            if depth > radius:
                low, high = _tangents(float(offset @ axis), depth, radius)
                box[2 * k] = max(0, math.floor(size / 2 + focal[k] * low) - 1)
                box[2 * k + 1] = min(size - 1, math.ceil(size / 2 + focal[k] * high) + 1)
    return boxes


@_compiled
def _hit(
    objects: Array, i: int, ox: float, oy: float, oz: float,
    dx: float, dy: float, dz: float, far: float,
) -> float:  # fmt: skip
    """Distance along a unit ray to object i, or ``far`` if it is not nearer."""
    cx, cy, cz = ox - objects[i, _X], oy - objects[i, _Y], oz - objects[i, _Z]
    along = cx * dx + cy * dy + cz * dz
    miss2 = cx * cx + cy * cy + cz * cz - along * along
    if miss2 > objects[i, _BOUND2]:
        return far
    half = objects[i, _HALF]
    if objects[i, _SHAPE] == 0:
        t = -along - math.sqrt(half * half - miss2)
        return t if EPSILON < t < far else far
    if objects[i, _SHAPE] == 1:
        cos, sin = objects[i, _COS], objects[i, _SIN]
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
    x, y, z = x - objects[i, _X], y - objects[i, _Y], z - objects[i, _Z]
    half = objects[i, _HALF]
    flat = half * (1.0 - BEVEL)
    if objects[i, _SHAPE] == 0:
        return x / half, y / half, z / half
    nz = math.copysign(max(abs(z) - flat, 0.0), z)
    if objects[i, _SHAPE] == 1:
        cos, sin = objects[i, _COS], objects[i, _SIN]
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
    best, found = _FAR, -1
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
        vx, vy, vz = objects[i, _X] - x, objects[i, _Y] - y, objects[i, _Z] - z
        d2 = vx * vx + vy * vy + vz * vz
        r2 = objects[i, _HALF] * objects[i, _HALF]
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
    metal = objects[found, _METAL] > 0.5
    if metal:
        light[0] = light[1] = light[2] = SKY
    else:
        _lit(
            objects, lamps, shadows, x, y, z, nx, ny, nz, dx, dy, dz, found, su, sv, 0.0, light
        )  # fmt: skip
    scale = METAL_MIRROR if metal else RUBBER_DIFFUSE
    for k in range(3):
        light[k] *= scale * objects[found, _RED + k]


@_entry
def _matter(
    objects: Array, lamps: Array, shadows: Array, found: int, t: float,
    ox: float, oy: float, oz: float, dx: float, dy: float, dz: float,
    su: float, sv: float, light: Array, color: Array,
) -> None:  # fmt: skip
    """Radiance RGB, into ``color``, of object ``found``, which a primary ray meets at t."""
    x, y, z = ox + t * dx, oy + t * dy, oz + t * dz
    nx, ny, nz = _normal(objects, found, x, y, z)
    metal = objects[found, _METAL] > 0.5
    gloss = METAL_GLOSS if metal else RUBBER_GLOSS
    _lit(
        objects, lamps, shadows, x, y, z, nx, ny, nz, dx, dy, dz, found, su, sv, gloss, light
    )  # fmt: skip
    if not metal:
        for k in range(3):
            diffuse = RUBBER_DIFFUSE * objects[found, _RED + k] * light[k]
            color[k] = diffuse + RUBBER_HIGHLIGHT * light[3 + k]
        return
    across = dx * nx + dy * ny + dz * nz
    for k in range(3):
        tint = objects[found, _RED + k]
        color[k] = METAL_DIFFUSE * tint * light[k]
        color[k] += METAL_HIGHLIGHT * (0.35 + 0.65 * tint) * light[3 + k]
    rx, ry, rz = dx - 2 * across * nx, dy - 2 * across * ny, dz - 2 * across * nz
    mirrored, far = _nearest(objects, x, y, z, rx, ry, rz, found)
    _reflected(objects, lamps, shadows, mirrored, far, x, y, z, rx, ry, rz, su, sv, light)
    fresnel = 0.1 * (1.0 - min(abs(across), 1.0)) ** 5
    for k in range(3):
        color[k] += (METAL_MIRROR * objects[found, _RED + k] + fresnel) * light[k]


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
    best, found = _FAR, -1
    for n in range(len(objects)):
        if boxes[n, 0] <= j <= boxes[n, 1] and boxes[n, 2] <= i <= boxes[n, 3]:
            t = _hit(objects, n, eye[0, 0], eye[0, 1], eye[0, 2], dx, dy, dz, best)
            if t < best:
                best, found = t, n
    return found, best


@_entry
def _draw_mask(
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
def _draw_image(
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
