"""Layouts and scenes for the tests."""

from __future__ import annotations

import numpy as np

from filmvqa.worlds.clevr.camera import Camera
from filmvqa.worlds.clevr.scene_file import Scene
from filmvqa.worlds.clevr.scene_rules import SceneRules
from filmvqa.worlds.clevr.scenes import (
    LAMP_POSITIONS,
    Layout,
    PlacedObject,
    sample_layouts,
    to_scene,
)


def one_object(shape: str, material: str, color: str) -> Layout:
    return Layout(
        camera=Camera.looking_at_origin(np.array([7.48, -6.51, 5.34])),
        lamps=LAMP_POSITIONS,
        objects=(PlacedObject("large", color, material, shape, 0.0, 0.0, 20.0),),
    )


def sample_layout(rng: np.random.Generator, rules: SceneRules) -> Layout:
    """Sample one layout, whether or not its objects are visible."""
    return next(sample_layouts(rng, rules))


def sample_scenes(seed: int, count: int, rules: SceneRules | None = None) -> list[Scene]:
    rng, rules = np.random.default_rng(seed), rules or SceneRules()
    return [to_scene(sample_layout(rng, rules), rules, "train", i, 480, 320) for i in range(count)]
