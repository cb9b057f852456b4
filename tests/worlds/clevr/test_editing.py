from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.system.errors import UserError
from filmvqa.worlds.clevr.camera import Camera
from filmvqa.worlds.clevr.editing import MAX_OBJECTS, EditedScene, ground_point
from filmvqa.worlds.clevr.render import render, sample_and_render
from filmvqa.worlds.clevr.scene_rules import SceneRules
from filmvqa.worlds.clevr.scenes import RADII, PlacedObject, to_scene


def test_sampled_scenes_are_the_generators() -> None:
    layout, _ = sample_and_render(np.random.default_rng(3), SceneRules(), 480, 320)
    scene = EditedScene.sampled(3)
    expected = to_scene(layout, SceneRules(), "edited", 0, 480, 320)
    assert scene.scene() == expected
    rendered = render(layout, 96, 64, 1)
    assert np.array_equal(scene.render(96, 64, 1).image, rendered.image)
    assert scene.problems() == []
    assert len(EditedScene.sampled(4, 7).objects) == 7
    for seed in range(8):  # the first layouts of some of these seeds hide an object
        crowded = EditedScene.sampled(seed, 9)
        assert crowded.render(320, 240, 1).visible.min() >= 0.9 * SceneRules().min_pixels


def test_changes_return_changed_scenes() -> None:
    scene = EditedScene.sampled(5, 4)
    other = next(c for c in ("red", "blue") if c != scene.objects[1].color)
    changed = scene.with_object(1, color=other)
    assert changed.objects[1].color == other
    assert [changed.objects[i] == scene.objects[i] for i in range(4)] == [True, False, True, True]
    assert changed.scene().relationships == scene.scene().relationships
    assert len(scene.without(0).objects) == 3
    assert scene.without(0).objects == scene.objects[1:]
    added = scene.with_added(PlacedObject("small", "red", "metal", "cube", 0.0, 0.0))
    assert added.objects[:4] == scene.objects
    assert len(scene.render(48, 32, 1).visible) == 4
    with pytest.raises(UserError, match="color='pink': no such color; choose from gray, red"):
        scene.with_object(0, color="pink")
    full = scene
    while len(full.objects) < MAX_OBJECTS:
        full = full.with_added(full.objects[0])
    with pytest.raises(UserError, match=f"at most {MAX_OBJECTS} objects"):
        full.with_added(full.objects[0])


@given(st.integers(0, 1000), st.floats(-3, 3), st.floats(-3, 3), st.sampled_from(sorted(RADII)))
def test_pixels_and_places_are_inverse(seed: int, x: float, y: float, size: str) -> None:
    jitter = np.random.default_rng(seed).uniform(-0.5, 0.5, 3)
    camera = Camera.looking_at_origin(np.array([7.5, -6.5, 5.3]) + jitter)
    pixel = camera.project(np.array([x, y, RADII[size]]), 480, 320)[:2]
    assert ground_point(camera, *pixel, 480, 320, RADII[size]) == pytest.approx((x, y), abs=1e-9)


def test_dragging() -> None:
    scene = EditedScene.sampled(6, 5)
    target = scene.pixels(480, 320)[1]
    moved = scene.moved_to_pixel(0, target[0] + 40, target[1] + 10, 480, 320)
    assert moved.pixels(480, 320)[0] == pytest.approx((target[0] + 40, target[1] + 10), abs=1e-6)
    assert moved.objects[1:] == scene.objects[1:]
    assert scene.moved_to_pixel(0, 240, -4000, 480, 320) == scene  # above the horizon
    far = scene.moved_to_pixel(0, 240, 1, 480, 320)
    assert max(abs(far.objects[0].x), abs(far.objects[0].y)) <= 4.5


def test_violated_constraints_are_listed() -> None:
    scene = EditedScene.sampled(7, 3)
    first = scene.objects[0]
    front = scene.camera.directions()["front"]
    x, y = first.x + 2.5 * float(front[0]), first.y + 2.5 * float(front[1])
    for changed, problem in (
        (scene.with_object(1, x=first.x + 0.1, y=first.y), "too close to each other"),
        (scene.with_object(0, x=3.5), "farther than 3 from the centre"),
        (scene.without(0), "2 objects; CLEVR has 3 to 10"),
        (scene.with_object(1, x=x, y=y), "left and right is too close to tell"),
    ):
        assert any(problem in text for text in changed.problems())
    hidden = scene.problems([500, 12, 500])
    assert hidden == [f"the {scene.objects[1]} is hidden except for 12 of 320×240 pixels"]
