"""Constraints on scenes, without imports of the modules that sample or render them."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from itertools import product
from typing import Annotated, ClassVar, Literal

from msgspec import Meta

from filmvqa.settings.typed import AboveZero, Natural, NotNegative, Positive, Settings
from filmvqa.system.errors import UserError
from filmvqa.worlds.clevr.scene_file import (
    COLORS,
    MATERIALS,
    SHAPES,
    SIZES,
    Color,
    Material,
    Shape,
    Size,
)

_COGENT_CUBES = ("gray", "blue", "brown", "yellow")
_COGENT_CYLINDERS = ("red", "green", "purple", "cyan")
#: Colours of each shape in CLEVR-CoGenT's conditions A and B, which swap cubes and cylinders.
COGENT: dict[Literal["A", "B"], dict[str, tuple[str, ...]]] = {
    "A": {"cube": _COGENT_CUBES, "cylinder": _COGENT_CYLINDERS, "sphere": COLORS},
    "B": {"cube": _COGENT_CYLINDERS, "cylinder": _COGENT_CUBES, "sphere": COLORS},
}
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
        Minimal gap on the ground between two objects' circles; corners of cubes may lie in it.
    min_margin
        Minimal offset of two objects along the left-right and the front-behind direction.
    relation_margin
        An object is left of (right of, ...) another if its offset exceeds this margin.
    camera_jitter, light_jitter
        Maximal offset of the camera and of the lamps along each axis.
    min_pixels
        Minimal number of visible pixels of each object in an image of 320×240 pixels.
    max_tries
        Number of positions that are tried for an object before all objects are drawn again.
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
    cogent: Literal["A", "B", "split"] | None = None
    colors: Annotated[tuple[Color, ...], _NOT_EMPTY] = COLORS
    shapes: Annotated[tuple[Shape, ...], _NOT_EMPTY] = SHAPES
    materials: Annotated[tuple[Material, ...], _NOT_EMPTY] = MATERIALS
    sizes: Annotated[tuple[Size, ...], _NOT_EMPTY] = SIZES

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.min_objects > self.max_objects:
            raise UserError(
                f"{self.as_override('min_objects')}: must be at most "
                f"{self.as_override('max_objects')}"
            )
        for condition, colors_of in COGENT.items():
            for shape in self.shapes if self.cogent in (condition, "split") else ():
                if not set(self.colors) & set(colors_of[shape]):
                    raise UserError(
                        f"{self.as_override('cogent')}: gives a {shape} none of the "
                        f"colors {list(self.colors)}; add one of {list(colors_of[shape])}, or "
                        "remove the shape"
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
            f"{self.as_override('cogent')}: the name of split {split!r} does not end in A or B"
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
