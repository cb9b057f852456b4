"""Scenes that are changed by hand: objects moved, changed, added and taken away."""

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

#: More objects than CLEVR has, but fewer than masks can tell apart.
MAX_OBJECTS = 20


class EditedScene(Layout):
    """A scene whose changes return another scene."""

    @classmethod
    def sampled(cls, seed: int, num_objects: int | None = None) -> EditedScene:
        """A scene as the generator draws it, none of whose objects (so many; None: 3 to 10) is
        hidden.

        Raises
        ------
        UserError
            If so many objects do not fit.
        """
        rules = SceneRules()
        if num_objects is not None:
            rules = replace(rules, min_objects=num_objects, max_objects=num_objects)
        rng = np.random.default_rng(seed)
        layout, _ = sample_and_render(rng, rules, 480, 320, rays=1)
        return cls(layout.camera, layout.lamps, layout.objects)

    def scene(self, width: int = 480, height: int = 320) -> Scene:
        """The scene as files have it, with relationships as CLEVR computes them."""
        return to_scene(self, SceneRules(), "edited", 0, width, height)

    def index(self) -> SceneIndex:
        """The scene as programs are executed on it."""
        return SceneIndex(self.scene())

    def render(self, width: int = 480, height: int = 320, rays: int = 2) -> Rendered:
        rendered = render(self, width, height, rays)
        assert (
            rendered is not None
        )  # only too few visible pixels, which are not asked for, are None
        return rendered

    def with_object(self, number: int, **changes: Any) -> EditedScene:
        """With changed attributes, place or rotation of one object.

        Raises
        ------
        UserError
            For a value that the attribute does not have.
        """
        objects = list(self.objects)
        objects[number] = replace(objects[number], **changes)
        return replace(self, objects=tuple(objects))

    def with_added(self, added: PlacedObject) -> EditedScene:
        if len(self.objects) >= MAX_OBJECTS:
            raise UserError(f"a scene has at most {MAX_OBJECTS} objects; take one away first")
        return replace(self, objects=(*self.objects, added))

    def without(self, number: int) -> EditedScene:
        objects = [o for i, o in enumerate(self.objects) if i != number]
        return replace(self, objects=tuple(objects))

    def moved_to_pixel(
        self, number: int, x: float, y: float, width: int, height: int, extent: float = 4.5
    ) -> EditedScene:
        """With an object moved on the ground so that its centre is seen at a pixel, as far as that
        is within ``extent`` of the middle; unmoved for a pixel that shows no ground."""
        moved = self.objects[number]
        place = ground_point(self.camera, x, y, width, height, moved.half_extent)
        if place is None:
            return self
        x, y = np.clip(place, -extent, extent)
        return self.with_object(number, x=float(x), y=float(y))

    def pixels(self, width: int, height: int) -> list[tuple[float, float]]:
        """Where the objects' centres are seen."""
        centres = self.centres()
        return [self.camera.project(centre, width, height)[:2] for centre in centres]

    def problems(self, visible: Sequence[int] | NDArray[np.int64] | None = None) -> list[str]:
        """What CLEVR's constraints have against the scene, a line each.

        ``visible`` are the visible pixels of each object in a picture of 320×240; None leaves them
        out.
        """
        rules, found = SceneRules(), []
        count = len(self.objects)
        if not rules.min_objects <= count <= rules.max_objects:
            found.append(f"{count} objects; CLEVR has {rules.min_objects} to {rules.max_objects}")
        found += [
            f"the {o} is further than {rules.extent:g} from the middle"
            for o in self.objects
            if max(abs(o.x), abs(o.y)) > rules.extent
        ]
        directions = self.camera.directions()
        for a, b in combinations(self.objects, 2):
            offset = np.array([b.x - a.x, b.y - a.y, 0.0])
            gap = float(np.hypot(*offset[:2])) - a.half_extent - b.half_extent
            if gap < rules.min_gap:
                found.append(f"the {a} and the {b} are too close to each other")
                continue
            for name, words in (("right", "left and right"), ("front", "front and behind")):
                if abs(float(offset @ directions[name])) < rules.min_margin:
                    found.append(f"between the {a} and the {b}, {words} is too close to tell")
        if visible is not None:
            found += [
                f"the {o} is hidden, but for {pixels} of 320×240 pixels"
                for o, pixels in zip(self.objects, visible, strict=True)
                if pixels < rules.min_pixels
            ]
        return found


def ground_point(
    camera: Camera, x: float, y: float, width: int, height: int, above: float
) -> tuple[float, float] | None:
    """The place (x, y) at a height ``above`` the ground that a pixel shows; None for a pixel at or
    above the horizon."""
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
