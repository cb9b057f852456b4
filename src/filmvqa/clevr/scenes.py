"""Sampling of scenes under CLEVR's constraints (Johnson et al., CVPR 2017, section 3)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np
from numba import njit

from filmvqa.clevr.camera import CAMERA_POSITION, Array, Camera
from filmvqa.clevr.schema import (
    COLORS,
    MATERIALS,
    RELATIONS,
    SHAPES,
    SIZES,
    Scene,
    SceneObject,
    Vector,
)
from filmvqa.errors import UserError

#: Radii of spheres and cylinders, and half edges of cubes, in world units.
RADII = {"small": 0.35, "large": 0.7}
_COGENT_CUBES = ("gray", "blue", "brown", "yellow")
_COGENT_CYLINDERS = ("red", "green", "purple", "cyan")
#: Colours of each shape in CLEVR-CoGenT's conditions A and B, which swap cubes and cylinders.
COGENT: dict[str, dict[str, tuple[str, ...]]] = {
    "A": {"cube": _COGENT_CUBES, "cylinder": _COGENT_CYLINDERS, "sphere": COLORS},
    "B": {"cube": _COGENT_CYLINDERS, "cylinder": _COGENT_CUBES, "sphere": COLORS},
}
#: Number of consecutive failures after which the scene rules are reported as unsatisfiable.
MAX_RESTARTS = 10_000
#: Positions of the three area lamps of CLEVR's base scene before jitter: key, fill, back.
LAMP_POSITIONS = np.array(
    [[6.44671, -2.90517, 4.25840], [-4.67112, -4.01360, 3.01122], [-1.16850, 2.64602, 5.81574]]
)


@dataclass(frozen=True)
class SceneRules:
    """Constraints on a scene; the defaults are those of CLEVR v1.0. Lengths are in world units.

    Attributes
    ----------
    min_objects, max_objects
        Range of the number of objects.
    extent
        Object positions are in [-extent, extent]² on the ground.
    min_gap
        Minimal gap on the ground between two objects' circles; corners of cubes may reach into it.
    min_margin
        Minimal offset of two objects along the left-right and the front-behind direction.
    relation_margin
        An object is left of (right of, ...) another if its offset exceeds this margin.
    camera_jitter, light_jitter
        Maximal offset of the camera and of the lamps along each axis.
    min_pixels
        Minimal number of visible pixels of each object in an image of 320×240 pixels.
    max_tries
        Number of positions that are tried for an object before the scene is restarted.
    cogent
        CLEVR-CoGenT condition: None, "A", "B", or "split", which selects the last letter of the
        split's name (trainA, valA, valB).
    colors, shapes, materials, sizes
        Attribute values to sample from.
    """

    min_objects: int = 3
    max_objects: int = 10
    extent: float = 3.0
    min_gap: float = 0.25
    min_margin: float = 0.4
    relation_margin: float = 0.2
    camera_jitter: float = 0.5
    light_jitter: float = 1.0
    min_pixels: int = 200
    max_tries: int = 50
    cogent: str | None = None
    colors: tuple[str, ...] = field(default=COLORS)
    shapes: tuple[str, ...] = field(default=SHAPES)
    materials: tuple[str, ...] = field(default=MATERIALS)
    sizes: tuple[str, ...] = field(default=SIZES)

    def __post_init__(self) -> None:
        if not 1 <= self.min_objects <= self.max_objects:
            raise UserError(
                f"min_objects={self.min_objects}, max_objects={self.max_objects}; min_objects must "
                "be at least 1 and at most max_objects"
            )
        if self.cogent not in (None, "split", *COGENT):
            raise UserError(f"cogent={self.cogent!r} is unknown; choose from A, B, split and null")
        allowed = {"colors": COLORS, "shapes": SHAPES, "materials": MATERIALS, "sizes": SIZES}
        for name, values in allowed.items():
            chosen = getattr(self, name)
            if not chosen or not set(chosen) <= set(values):
                raise UserError(f"{name}={list(chosen)}; choose from {list(values)}")

    def for_split(self, split: str) -> SceneRules:
        """Return the rules of one split, with ``cogent="split"`` replaced by A or B.

        Raises
        ------
        UserError
            If ``cogent`` is "split" and the split's name does not end in A or B.
        """
        if self.cogent != "split":
            return self
        if split[-1:] not in COGENT:
            raise UserError(f"cogent=split, but the name of split {split!r} does not end in A or B")
        return replace(self, cogent=split[-1])

    def min_visible(self, width: int, height: int) -> int:
        """Scale ``min_pixels`` to a ``width`` × ``height`` image."""
        return math.ceil(self.min_pixels * width * height / (320 * 240))

    def shape_color_pairs(self) -> list[tuple[str, str]]:
        """Return the allowed pairs of shape and colour."""
        colors_of = COGENT.get(self.cogent or "", dict.fromkeys(SHAPES, COLORS))
        return [(s, c) for s, c in product(self.shapes, self.colors) if c in colors_of[s]]


@dataclass(frozen=True)
class Layout:
    """A sampled scene before rendering: camera, lamps and N objects.

    Attributes
    ----------
    camera
        The camera.
    lamps
        Lamp positions.
    size, shape, material, color
        Attribute values of each object.
    position
        Object positions on the ground.
    half_extent
        Radius of spheres and cylinders, half edge of cubes (the official code would divide a
        cube's by √2, but compares its name with another one, so the release's cubes are large).
    rotation
        Rotation about the vertical in degrees.
    """

    camera: Camera
    lamps: Array  # (3, 3)
    size: list[str]
    shape: list[str]
    material: list[str]
    color: list[str]
    position: Array  # (N, 2)
    half_extent: Array  # (N,)
    rotation: Array  # (N,)

    def centres(self) -> Array:
        """Return the object centres (N, 3); all objects stand on the ground."""
        return np.column_stack([self.position, self.half_extent])


def sample_layouts(rng: np.random.Generator, rules: SceneRules) -> Iterator[Layout]:
    """Yield layouts of one scene: their number of objects, camera and lamps are the same.

    As in the official generator, these are drawn once, so that their distributions are uniform,
    however many layouts the caller rejects. The objects are drawn again for each layout, and when
    one does not fit at any of ``rules.max_tries`` positions.

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


def sample_layout(rng: np.random.Generator, rules: SceneRules) -> Layout:
    """Sample one layout, whether or not its objects are visible; see ``sample_layouts``."""
    return next(sample_layouts(rng, rules))


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
    shapes_allowed = [s for s in rules.shapes if any(s == shape for shape, _ in pairs)]
    shape = _uniform_choices(rng, shapes_allowed, count)
    color = [_uniform_choices(rng, [c for s, c in pairs if s == name], 1)[0] for name in shape]
    return Layout(
        camera=camera,
        lamps=lamps,
        size=size,
        shape=shape,
        material=_uniform_choices(rng, rules.materials, count),
        color=color,
        position=position,
        half_extent=radii,
        rotation=rng.uniform(0.0, 360.0, count),
    )


def _uniform_choices(
    rng: np.random.Generator, values: tuple[str, ...] | list[str], count: int
) -> list[str]:
    return [values[i] for i in rng.integers(len(values), size=count)]


@njit(cache=True, nogil=True)
def _place(
    candidates: Array, radii: Array, axes: Array, min_gap: float, min_margin: float, position: Array
) -> bool:
    """Give each of N objects its first candidate position that is clear of the objects before it.

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
        False if no candidate of some object is clear.
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


def to_scene(
    layout: Layout, rules: SceneRules, split: str, index: int, width: int, height: int
) -> Scene:
    """Convert a layout to a record of CLEVR's scene file, for a ``width`` × ``height`` image."""
    centres = layout.centres()
    directions = layout.camera.directions()
    objects = []
    for i, centre in enumerate(centres):
        x, y, depth = layout.camera.project(centre, width, height)
        objects.append(
            SceneObject(
                color=layout.color[i],
                size=layout.size[i],
                rotation=float(layout.rotation[i]),
                shape=layout.shape[i],
                material=layout.material[i],
                coords=_to_vector(centre),
                pixel_coords=(round(x), round(y), depth),
            )
        )
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
