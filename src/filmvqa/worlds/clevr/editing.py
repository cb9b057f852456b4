"""Scenes that are edited by hand: objects are moved, changed, added and removed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from numpy.typing import NDArray

from filmvqa.system.errors import UserError
from filmvqa.worlds.clevr.camera import Camera
from filmvqa.worlds.clevr.render import Rendered, render, sample_and_render
from filmvqa.worlds.clevr.scene_file import Scene
from filmvqa.worlds.clevr.scene_rules import SceneRules
from filmvqa.worlds.clevr.scenes import Layout, PlacedObject, to_scene
from filmvqa.worlds.engine.programs import SceneIndex

#: More objects than CLEVR has, but fewer than masks can distinguish.
MAX_OBJECTS = 20


class EditedScene(Layout):
    """An immutable scene; each method that changes it returns another scene."""

    @classmethod
    def sampled(cls, seed: int, num_objects: int | None = None) -> EditedScene:
        """Sample a scene like the generator; none of its objects is hidden.

        ``num_objects`` is None for 3 to 10 objects.

        Raises
        ------
        UserError
            If the objects do not fit.
        """
        rules = SceneRules()
        if num_objects is not None:
            rules = replace(rules, min_objects=num_objects, max_objects=num_objects)
        rng = np.random.default_rng(seed)
        layout, _ = sample_and_render(rng, rules, 480, 320, rays=1)
        return cls(layout.camera, layout.lamps, layout.objects)

    def scene(self, width: int = 480, height: int = 320) -> Scene:
        """The scene's record, with relationships as CLEVR computes them."""
        return to_scene(self, SceneRules(), "edited", 0, width, height)

    def index(self) -> SceneIndex:
        """The scene's index, for the execution of programs."""
        return SceneIndex(self.scene())

    def render(self, width: int = 480, height: int = 320, rays: int = 2) -> Rendered:
        rendered = render(self, width, height, rays)
        assert rendered is not None  # since no visible pixels are required
        return rendered

    def with_object(self, number: int, **changes: Any) -> EditedScene:
        """Change the attributes, position or rotation of one object.

        Raises
        ------
        UserError
            If an attribute does not have the value.
        """
        objects = list(self.objects)
        objects[number] = replace(objects[number], **changes)
        return replace(self, objects=tuple(objects))

    def with_added(self, added: PlacedObject) -> EditedScene:
        if len(self.objects) >= MAX_OBJECTS:
            raise UserError(f"a scene has at most {MAX_OBJECTS} objects; remove one first")
        return replace(self, objects=(*self.objects, added))

    def without(self, number: int) -> EditedScene:
        objects = [o for i, o in enumerate(self.objects) if i != number]
        return replace(self, objects=tuple(objects))

    def moved_to_pixel(
        self, number: int, x: float, y: float, width: int, height: int, extent: float = 4.5
    ) -> EditedScene:
        """Move an object on the ground so that its centre appears at a pixel.

        Its coordinates are clipped to ``extent``. The scene stays unchanged if the pixel does not
        show the ground.
        """
        moved = self.objects[number]
        place = ground_point(self.camera, x, y, width, height, moved.half_extent)
        if place is None:
            return self
        x, y = np.clip(place, -extent, extent)
        return self.with_object(number, x=float(x), y=float(y))

    def pixels(self, width: int, height: int) -> list[tuple[float, float]]:
        """The pixel coordinates of the objects' centres."""
        return [self.camera.project(centre, width, height)[:2] for centre in self.centres()]

    def problems(self, visible: Sequence[int] | NDArray[np.int64] | None = None) -> list[str]:
        """The constraints of CLEVR that the scene violates, a sentence for each.

        ``visible`` has the number of visible pixels of each object in an image of 320×240 pixels;
        None skips that constraint.
        """
        rules, problems = SceneRules(), []
        count = len(self.objects)
        if not rules.min_objects <= count <= rules.max_objects:
            problems.append(
                f"{count} objects; CLEVR has {rules.min_objects} to {rules.max_objects}"
            )
        problems += [
            f"the {o} is farther than {rules.extent:g} from the centre"
            for o in self.objects
            if max(abs(o.x), abs(o.y)) > rules.extent
        ]
        directions = self.camera.directions()
        for a, b in combinations(self.objects, 2):
            offset = np.array([b.x - a.x, b.y - a.y, 0.0])
            gap = float(np.hypot(*offset[:2])) - a.half_extent - b.half_extent
            if gap < rules.min_gap:
                problems.append(f"the {a} and the {b} are too close to each other")
                continue
            for name, words in (("right", "left and right"), ("front", "front and behind")):
                if abs(float(offset @ directions[name])) < rules.min_margin:
                    problems.append(f"between the {a} and the {b}, {words} is too close to tell")
        if visible is not None:
            problems += [
                f"the {o} is hidden except for {pixels} of 320×240 pixels"
                for o, pixels in zip(self.objects, visible, strict=True)
                if pixels < rules.min_pixels
            ]
        return problems


def ground_point(
    camera: Camera, x: float, y: float, width: int, height: int, above: float
) -> tuple[float, float] | None:
    """The point (x, y) at height ``above`` that a pixel shows; None at or above the horizon."""
    focal_x, focal_y = camera.focal_lengths(width, height)
    ray = (
        camera.forward
        + (x - width / 2) / focal_x * camera.right
        - (y - height / 2) / focal_y * camera.up
    )
    if ray[2] >= -1e-6:
        return None
    point = camera.position + (above - camera.position[2]) / ray[2] * ray
    return float(point[0]), float(point[1])
