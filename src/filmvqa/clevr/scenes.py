"""Sampling of scenes under CLEVR's constraints (Johnson et al., CVPR 2017, section 3)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, ClassVar, Literal

import numpy as np
from msgspec import Meta

from filmvqa.clevr.camera import CAMERA_POSITION, Array, Camera
from filmvqa.clevr.schema import (
    COLORS,
    MATERIALS,
    RELATIONS,
    SHAPES,
    SIZES,
    Color,
    Material,
    Scene,
    SceneObject,
    Shape,
    Size,
    Vector,
)
from filmvqa.errors import UserError
from filmvqa.settings import AboveZero, Natural, NotNegative, Positive, Settings

#: Object radii in world units.
RADII = {"small": 0.35, "large": 0.7}
_COGENT_CUBES = ("gray", "blue", "brown", "yellow")
_COGENT_CYLINDERS = ("red", "green", "purple", "cyan")
#: Colours of each shape in CLEVR-CoGenT's conditions A and B, which swap cubes and cylinders.
COGENT: dict[Literal["A", "B"], dict[str, tuple[str, ...]]] = {
    "A": {"cube": _COGENT_CUBES, "cylinder": _COGENT_CYLINDERS, "sphere": COLORS},
    "B": {"cube": _COGENT_CYLINDERS, "cylinder": _COGENT_CUBES, "sphere": COLORS},
}
#: Number of consecutive failures after which the scene rules are reported as unsatisfiable.
MAX_RESTARTS = 10_000
#: Positions of the three area lamps of CLEVR's base scene before jitter: key, fill, back.
LAMP_POSITIONS = np.array(
    [[6.44671, -2.90517, 4.25840], [-4.67112, -4.01360, 3.01122], [-1.16850, 2.64602, 5.81574]]
)

_HALF_EDGE = math.sqrt(0.5)
_NOT_EMPTY = Meta(min_length=1)


@dataclass(frozen=True)
class SceneRules(Settings):
    """Constraints on a scene; the defaults are those of CLEVR v1.0. Lengths are in world units.

    Attributes
    ----------
    min_objects, max_objects
        Range of the number of objects.
    extent
        Object positions are in [-extent, extent]² on the ground.
    min_gap
        Minimal gap between two objects on the ground.
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
    cube_half_edge
        Half the edge of a cube, in radii. 1/√2, as in the official generator's code, puts a cube's
        corners on the circle of its radius; cubes in the release's images are about 1.0.
    cogent
        CLEVR-CoGenT condition: None, "A", "B", or "split", which selects the last letter of the
        split's name (trainA, valA, valB).
    colors, shapes, materials, sizes
        Attribute values to sample from.
    """

    node: ClassVar[str] = "data.generator.rules"

    min_objects: Positive = 3
    max_objects: Positive = 10
    extent: AboveZero = 3.0
    min_gap: NotNegative = 0.25
    min_margin: NotNegative = 0.4
    relation_margin: NotNegative = 0.2
    camera_jitter: NotNegative = 0.5
    light_jitter: NotNegative = 1.0
    min_pixels: Natural = 200
    max_tries: Positive = 50
    cube_half_edge: AboveZero = _HALF_EDGE
    cogent: Literal["A", "B", "split"] | None = None
    colors: Annotated[tuple[Color, ...], _NOT_EMPTY] = COLORS
    shapes: Annotated[tuple[Shape, ...], _NOT_EMPTY] = SHAPES
    materials: Annotated[tuple[Material, ...], _NOT_EMPTY] = MATERIALS
    sizes: Annotated[tuple[Size, ...], _NOT_EMPTY] = SIZES

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_objects > self.max_objects:
            raise UserError(
                f"{self.key_of('min_objects')}={self.min_objects}: must be at most "
                f"{self.key_of('max_objects')}={self.max_objects}"
            )
        for condition, colors_of in COGENT.items():
            for shape in self.shapes if self.cogent in (condition, "split") else ():
                if not set(self.colors) & set(colors_of[shape]):
                    raise UserError(
                        f"{self.key_of('cogent')}={self.cogent}: gives a {shape} none of the "
                        f"colors {list(self.colors)}; add one of {list(colors_of[shape])}, or "
                        "take the shape out"
                    )

    def for_split(self, split: str) -> SceneRules:
        """Return the rules of one split, with ``cogent="split"`` replaced by A or B.

        Raises
        ------
        UserError
            If ``cogent`` is "split" and the split's name does not end in A or B.
        """
        if self.cogent != "split":
            return self
        for condition in COGENT:
            if split.endswith(condition):
                return replace(self, cogent=condition)
        raise UserError(
            f"{self.key_of('cogent')}=split: the name of split {split!r} does not end in A or B"
        )

    def min_visible(self, width: int, height: int) -> int:
        """Scale ``min_pixels`` to a ``width`` × ``height`` image."""
        return math.ceil(self.min_pixels * width * height / (320 * 240))

    def shape_color_pairs(self) -> list[tuple[str, str]]:
        """Return the allowed pairs of shape and colour."""
        if self.cogent is None or self.cogent == "split":
            return list(product(self.shapes, self.colors))
        colors_of = COGENT[self.cogent]
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
        Radius of spheres and cylinders, half edge of cubes.
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


def sample_layout(rng: np.random.Generator, rules: SceneRules) -> Layout:
    """Sample one layout.

    The scene is restarted when an object does not fit at any of ``rules.max_tries`` positions.

    Raises
    ------
    UserError
        If ``MAX_RESTARTS`` consecutive scenes fail, because the objects do not fit.
    """
    for _ in range(MAX_RESTARTS):
        layout = _try_layout(rng, rules)
        if layout is not None:
            return layout
    raise UserError(
        f"{rules.min_objects} to {rules.max_objects} objects did not fit into any of "
        f"{MAX_RESTARTS} scenes; lower rules.max_objects or rules.min_margin"
    )


def _try_layout(rng: np.random.Generator, rules: SceneRules) -> Layout | None:
    jitter = rules.camera_jitter
    camera = Camera.looking_at_origin(CAMERA_POSITION + rng.uniform(-jitter, jitter, 3))
    lamps = LAMP_POSITIONS + rng.uniform(-rules.light_jitter, rules.light_jitter, (3, 3))
    directions = camera.directions()
    axes = (directions["right"], directions["front"])
    pairs = rules.shape_color_pairs()

    size: list[str] = []
    shape: list[str] = []
    color: list[str] = []
    material: list[str] = []
    half_extent: list[float] = []
    placed: list[tuple[float, float, float]] = []  # x, y, radius on the ground
    for _ in range(int(rng.integers(rules.min_objects, rules.max_objects + 1))):
        size.append(_uniform_choice(rng, rules.sizes))
        shape.append(_uniform_choice(rng, rules.shapes))
        color.append(_uniform_choice(rng, [c for s, c in pairs if s == shape[-1]]))
        material.append(_uniform_choice(rng, rules.materials))
        radius = RADII[size[-1]]
        ground_radius = radius
        if shape[-1] == "cube":
            radius *= rules.cube_half_edge
            ground_radius = radius * math.sqrt(2)
        half_extent.append(radius)
        for x, y in _candidate_positions(rng, rules):
            if _is_clear(x, y, ground_radius, placed, axes, rules):
                placed.append((x, y, ground_radius))
                break
        else:
            return None
    return Layout(
        camera=camera,
        lamps=lamps,
        size=size,
        shape=shape,
        material=material,
        color=color,
        position=np.array([p[:2] for p in placed]),
        half_extent=np.array(half_extent),
        rotation=rng.uniform(0.0, 360.0, len(placed)),
    )


def _uniform_choice(rng: np.random.Generator, values: Sequence[str]) -> str:
    return values[int(rng.integers(len(values)))]


def _candidate_positions(
    rng: np.random.Generator, rules: SceneRules
) -> Iterator[tuple[float, float]]:
    yield from rng.uniform(-rules.extent, rules.extent, (rules.max_tries, 2)).tolist()


def _is_clear(
    x: float,
    y: float,
    ground_radius: float,
    placed: list[tuple[float, float, float]],
    axes: tuple[Array, ...],
    rules: SceneRules,
) -> bool:
    for other_x, other_y, other_radius in placed:
        dx, dy = x - other_x, y - other_y
        if math.hypot(dx, dy) - ground_radius - other_radius < rules.min_gap:
            return False
        # Left and right are opposite, as are front and behind: one axis of each pair suffices.
        for axis in axes:
            if abs(dx * axis[0] + dy * axis[1]) < rules.min_margin:
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
                pixel_coords=(float(round(x)), float(round(y)), depth),
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
