"""Sampling of scenes under CLEVR's constraints (Johnson et al., CVPR 2017, section 3)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from numba import njit

from filmvqa.system.errors import UserError
from filmvqa.worlds.clevr.camera import CAMERA_POSITION, Array, Camera
from filmvqa.worlds.clevr.scene_file import ATTRIBUTES, RELATIONS, Scene, SceneObject, Vector
from filmvqa.worlds.clevr.scene_rules import SceneRules
from filmvqa.worlds.engine.scene_records import register_relate

#: Radii of spheres and cylinders, and half edges of cubes, in world units.
RADII = {"small": 0.35, "large": 0.7}
#: Number of consecutive failures after which the scene rules count as unsatisfiable.
MAX_RESTARTS = 10_000
#: Positions of the three area lamps of CLEVR's base scene before jitter: key, fill, back.
LAMP_POSITIONS = np.array(
    [[6.44671, -2.90517, 4.25840], [-4.67112, -4.01360, 3.01122], [-1.16850, 2.64602, 5.81574]]
)


@dataclass(frozen=True)
class PlacedObject:
    """An object on the ground: its attributes, its position (x, y) in world units, and its rotation
    about the vertical in degrees.

    Raises
    ------
    UserError
        If an attribute does not have the value.
    """

    size: str
    color: str
    material: str
    shape: str
    x: float
    y: float
    rotation: float = 0.0

    def __post_init__(self) -> None:
        for name, values in ATTRIBUTES.items():
            if getattr(self, name) not in values:
                raise UserError(
                    f"{name}={getattr(self, name)!r}: no such {name}; choose from "
                    f"{', '.join(values)}"
                )

    def __str__(self) -> str:
        return f"{self.size} {self.color} {self.material} {self.shape}"

    @property
    def half_extent(self) -> float:
        """Radius of spheres and cylinders, half edge of cubes in world units.

        The official code would divide a cube's by √2, but compares its name with a wrong string,
        so the release's cubes are not divided.
        """
        return RADII[self.size]


@dataclass(frozen=True)
class Layout:
    """A scene before rendering: its camera, lamp positions (3, 3) and N objects."""

    camera: Camera
    lamps: Array
    objects: tuple[PlacedObject, ...]

    def centres(self) -> Array:
        """Return the object centres (N, 3); all objects stand on the ground."""
        return np.array([(o.x, o.y, o.half_extent) for o in self.objects]).reshape(-1, 3)


def sample_layouts(rng: np.random.Generator, rules: SceneRules) -> Iterator[Layout]:
    """Yield layouts of one scene, with the same number of objects, camera and lamps.

    As in the official generator, these are drawn once, so that their distributions are uniform,
    however many layouts the caller rejects. The objects are drawn again for each layout, and also
    if one of them fits at none of ``rules.max_tries`` positions.

    Raises
    ------
    UserError
        If the objects do not fit in ``MAX_RESTARTS`` consecutive attempts.
    """
    count = int(rng.integers(rules.min_objects, rules.max_objects + 1))
    jitter = rules.camera_jitter
    camera = Camera.looking_at_origin(CAMERA_POSITION + rng.uniform(-jitter, jitter, 3))
    lamps = LAMP_POSITIONS + rng.uniform(-rules.light_jitter, rules.light_jitter, (3, 3))
    failures = 0
    while failures < MAX_RESTARTS:
        layout = _try_layout(rng, rules, count, camera, lamps)
        if layout is None:
            failures += 1
        else:
            failures = 0
            yield layout
    raise UserError(
        f"rules: {count} objects did not fit into any of {MAX_RESTARTS} scenes; lower "
        "rules.max_objects, rules.min_gap or rules.min_margin"
    )


def _try_layout(
    rng: np.random.Generator, rules: SceneRules, count: int, camera: Camera, lamps: Array
) -> Layout | None:
    size = _uniform_choices(rng, rules.sizes, count)
    radii = np.array([RADII[name] for name in size])
    candidates = rng.uniform(-rules.extent, rules.extent, (count, rules.max_tries, 2))
    directions = camera.directions()
    # Left and right are opposite, as are front and behind: one axis of each pair suffices.
    axes = np.stack([directions["right"][:2], directions["front"][:2]])
    position = np.empty((count, 2))
    if not _place(candidates, radii, axes, rules.min_gap, rules.min_margin, position):
        return None
    pairs = rules.shape_color_pairs()
    shape = _uniform_choices(rng, rules.shapes, count)
    color = [_uniform_choices(rng, [c for s, c in pairs if s == name], 1)[0] for name in shape]
    material = _uniform_choices(rng, rules.materials, count)
    places = [*position.T.tolist(), rng.uniform(0.0, 360.0, count).tolist()]
    return Layout(camera, lamps, tuple(map(PlacedObject, size, color, material, shape, *places)))


def _uniform_choices(rng: np.random.Generator, values: Sequence[str], count: int) -> list[str]:
    return [values[i] for i in rng.integers(len(values), size=count)]


@njit(cache=True, nogil=True)
def _place(
    candidates: Array, radii: Array, axes: Array, min_gap: float, min_margin: float, position: Array
) -> bool:
    """Give each of N objects its first candidate position that is clear of the previous objects.

    Parameters
    ----------
    candidates
        (N, tries, 2).
    radii
        (N,).
    axes
        The left-right and the front-behind direction on the ground, (2, 2).
    min_gap, min_margin
        As in ``SceneRules``.
    position
        The result, (N, 2).

    Returns
    -------
    bool
        False if no candidate of an object is clear.
    """
    for i in range(len(radii)):
        for x, y in candidates[i]:
            clear = True
            for j in range(i):
                dx, dy = x - position[j, 0], y - position[j, 1]
                if (
                    math.hypot(dx, dy) - radii[i] - radii[j] < min_gap
                    or abs(dx * axes[0, 0] + dy * axes[0, 1]) < min_margin
                    or abs(dx * axes[1, 0] + dy * axes[1, 1]) < min_margin
                ):
                    clear = False
                    break
            if clear:
                position[i] = x, y
                break
        else:
            return False
    return True


def compute_relationships(
    centres: Array, directions: dict[str, Array], margin: float
) -> dict[str, list[list[int]]]:
    """Compute the relationships of objects with the given centres (N, 3).

    Returns
    -------
    relationships
        ``relationships[r][i]`` lists the objects whose offset from object i along
        ``directions[r]`` exceeds ``margin``.
    """
    offset = centres[None, :, :] - centres[:, None, :]  # (N, N, 3), from i to j
    return {
        name: [np.flatnonzero(row > margin).tolist() for row in offset @ directions[name]]
        for name in RELATIONS
    }


class _Place(msgspec.Struct):
    coords: Vector | None = msgspec.field(name="3d_coords", default=None)


class _Places(msgspec.Struct):
    objects: list[_Place]
    directions: dict[str, Vector] | None = None


@register_relate("clevr")
def relate(scene: dict[str, Any]) -> dict[str, list[list[int]]]:
    """Compute the relationships of a decoded scene from the positions of its objects.

    Raises
    ------
    ValueError
        If a position or a direction is missing.
    """
    places = msgspec.convert(scene, _Places)
    centres = [place.coords for place in places.objects if place.coords is not None]
    if places.directions is None or len(centres) < len(places.objects):
        raise ValueError("neither relationships nor directions and the 3d_coords of all objects")
    directions = {name: np.array(vector) for name, vector in places.directions.items()}
    if missing := [name for name in RELATIONS if name not in directions]:
        raise ValueError(f"no direction {missing[0]!r}")
    return compute_relationships(
        np.array(centres).reshape(-1, 3), directions, SceneRules.relation_margin
    )


def to_scene(
    layout: Layout, rules: SceneRules, split: str, index: int, width: int, height: int
) -> Scene:
    """Convert a layout to a record of CLEVR's scene file, for a ``width`` × ``height`` image."""
    centres = layout.centres()
    directions = layout.camera.directions()
    objects = []
    for thing, centre in zip(layout.objects, centres, strict=True):
        x, y, depth = layout.camera.project(centre, width, height)
        objects.append(
            SceneObject(
                thing.color, thing.size, thing.rotation, thing.shape, thing.material,
                coords=_to_vector(centre), pixel_coords=(round(x), round(y), depth),
            )
        )  # fmt: skip
    return Scene(
        image_index=index,
        image_filename=image_filename(split, index),
        split=split,
        objects=objects,
        relationships=compute_relationships(centres, directions, rules.relation_margin),
        directions={name: _to_vector(v) for name, v in directions.items()},
    )


def image_filename(split: str, index: int) -> str:
    """Return CLEVR's file name of an image."""
    return f"CLEVR_{split}_{index:06d}.png"


def _to_vector(values: Array) -> Vector:
    x, y, z = (float(v) for v in values)
    return x, y, z
