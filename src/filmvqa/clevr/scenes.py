"""Sampling scenes under CLEVR's constraints (Johnson et al., CVPR 2017, section 3)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import product

import numpy as np

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

RADII = {"small": 0.35, "large": 0.7}
_COGENT_CUBES = ("gray", "blue", "brown", "yellow")
_COGENT_CYLINDERS = ("red", "green", "purple", "cyan")
#: Colours that each shape may have: CLEVR-CoGenT's conditions A and B swap cubes and cylinders.
COGENT: dict[str, dict[str, tuple[str, ...]]] = {
    "A": {"cube": _COGENT_CUBES, "cylinder": _COGENT_CYLINDERS, "sphere": COLORS},
    "B": {"cube": _COGENT_CYLINDERS, "cylinder": _COGENT_CUBES, "sphere": COLORS},
}
#: Scenes in a row that may fail before their rules are taken to be impossible.
MAX_RESTARTS = 10_000
#: Where the three area lamps of CLEVR's base scene stand: key, fill, back.
LAMP_POSITIONS = np.array(
    [[6.44671, -2.90517, 4.25840], [-4.67112, -4.01360, 3.01122], [-1.16850, 2.64602, 5.81574]]
)


@dataclass(frozen=True)
class SceneRules:
    """The constraints on a scene; the defaults are CLEVR v1.0's.

    ``cube_half_edge`` is in radii. 1/√2 is what the official generator's code says and puts a
    cube inside its radius; the release's own images show cubes of about 1.0.
    ``cogent`` is None, "A", "B", or "split": the condition that ends the split's name, as in
    trainA, valA and valB.
    """

    min_objects: int = 3
    max_objects: int = 10
    extent: float = 3.0
    min_gap: float = 0.25
    min_margin: float = 0.4
    relation_margin: float = 0.2
    camera_jitter: float = 0.5
    light_jitter: float = 1.0
    min_pixels: int = 200  # at 320×240
    max_tries: int = 50
    cube_half_edge: float = math.sqrt(0.5)
    cogent: str | None = None
    colors: tuple[str, ...] = field(default=COLORS)
    shapes: tuple[str, ...] = field(default=SHAPES)
    materials: tuple[str, ...] = field(default=MATERIALS)
    sizes: tuple[str, ...] = field(default=SIZES)

    def __post_init__(self) -> None:
        if not 1 <= self.min_objects <= self.max_objects:
            raise UserError(
                f"scenes of {self.min_objects} to {self.max_objects} objects; "
                "min_objects must be at least 1 and at most max_objects"
            )
        if self.cogent not in (None, "split", *COGENT):
            raise UserError(f"unknown CoGenT condition {self.cogent!r}; use A, B, split or null")
        allowed = {"colors": COLORS, "shapes": SHAPES, "materials": MATERIALS, "sizes": SIZES}
        for name, values in allowed.items():
            chosen = getattr(self, name)
            if not chosen or not set(chosen) <= set(values):
                raise UserError(f"{name} {list(chosen)}; choose from {list(values)}")

    def for_split(self, split: str) -> SceneRules:
        """The rules of one split, its CoGenT condition settled.

        Raises
        ------
        UserError
            If the name of the split should end in a condition and does not.
        """
        if self.cogent != "split":
            return self
        if split[-1:] not in COGENT:
            raise UserError(f"cogent=split: the name of split {split!r} ends in neither A nor B")
        return replace(self, cogent=split[-1])

    def min_visible(self, width: int, height: int) -> int:
        """Pixels that every object must show in a ``width`` × ``height`` image."""
        return math.ceil(self.min_pixels * width * height / (320 * 240))

    def shape_color_pairs(self) -> list[tuple[str, str]]:
        """What an object may look like, each with equal chance for its shape."""
        colors_of = COGENT.get(self.cogent or "", dict.fromkeys(SHAPES, COLORS))
        return [(s, c) for s, c in product(self.shapes, self.colors) if c in colors_of[s]]


@dataclass(frozen=True)
class Layout:
    """A sampled scene before it has been looked at: N objects, camera and lamps.

    ``size``, ``shape`` and so on hold names, one an object; ``position`` is (N, 2) on the
    ground, ``half_extent`` (N,) radii or half edges, ``rotation`` (N,) degrees, ``lamps`` (3, 3).
    """

    camera: Camera
    lamps: Array
    size: list[str]
    shape: list[str]
    material: list[str]
    color: list[str]
    position: Array
    half_extent: Array
    rotation: Array

    def centres(self) -> Array:
        """Object centres (N, 3): every object stands on the ground."""
        return np.column_stack([self.position, self.half_extent])


def sample_layout(rng: np.random.Generator, rules: SceneRules) -> Layout:
    """Draw one layout; an object that finds no place in ``max_tries`` starts the scene again.

    Raises
    ------
    UserError
        If ``MAX_RESTARTS`` scenes in a row fail: there is no room for so many objects.
    """
    for _ in range(MAX_RESTARTS):
        layout = _try_layout(rng, rules)
        if layout is not None:
            return layout
    raise UserError(
        f"{MAX_RESTARTS} scenes in a row had no room for {rules.min_objects} to "
        f"{rules.max_objects} objects; lower rules.max_objects or rules.min_margin"
    )


def _try_layout(rng: np.random.Generator, rules: SceneRules) -> Layout | None:
    jitter = rules.camera_jitter
    camera = Camera.looking_at_origin(CAMERA_POSITION + rng.uniform(-jitter, jitter, 3))
    lamps = LAMP_POSITIONS + rng.uniform(-rules.light_jitter, rules.light_jitter, (3, 3))
    directions = camera.directions()
    axes = (directions["right"], directions["front"])
    pairs = rules.shape_color_pairs()
    shapes_allowed = [s for s in rules.shapes if any(s == shape for shape, _ in pairs)]

    size: list[str] = []
    shape: list[str] = []
    color: list[str] = []
    material: list[str] = []
    half_extent: list[float] = []
    placed: list[tuple[float, float, float]] = []  # x, y, radius on the ground
    for _ in range(int(rng.integers(rules.min_objects, rules.max_objects + 1))):
        size.append(_uniform_choice(rng, rules.sizes))
        shape.append(_uniform_choice(rng, shapes_allowed))
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


def _uniform_choice(rng: np.random.Generator, values: tuple[str, ...] | list[str]) -> str:
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
        # Left and right, front and behind are opposite: one axis a pair is enough.
        for axis in axes:
            if abs(dx * axis[0] + dy * axis[1]) < rules.min_margin:
                return False
    return True


def compute_relationships(
    centres: Array, directions: dict[str, Array], margin: float
) -> dict[str, list[list[int]]]:
    """``relationships[r][i]``: the objects that lie in direction r from object i, by over
    ``margin`` along that direction.

    ``centres`` is (N, 3).
    """
    offset = centres[None, :, :] - centres[:, None, :]  # (N, N, 3), from i to j
    return {
        name: [np.flatnonzero(row > margin).tolist() for row in offset @ directions[name]]
        for name in RELATIONS
    }


def to_scene(
    layout: Layout, rules: SceneRules, split: str, index: int, width: int, height: int
) -> Scene:
    """The record of a layout as CLEVR's scene file has it, for an image of that size."""
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
    """CLEVR's name of an image."""
    return f"CLEVR_{split}_{index:06d}.png"


def _to_vector(values: Array) -> Vector:
    x, y, z = (float(v) for v in values)
    return x, y, z
