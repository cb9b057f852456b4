from __future__ import annotations

import json
import math
from itertools import combinations
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.system.errors import UserError
from filmvqa.worlds.clevr.camera import Camera
from filmvqa.worlds.clevr.render import Rendered, render, sample_and_render
from filmvqa.worlds.clevr.scene_file import Scene
from filmvqa.worlds.clevr.scene_rules import COGENT, SceneRules
from filmvqa.worlds.clevr.scenes import RADII, sample_layouts, to_scene
from filmvqa.worlds.engine.schema import encode_json
from tests.conftest import examples
from tests.worlds.clevr.layouts import sample_layout, sample_scenes

SEEDS = st.integers(0, 2**32 - 1)


@given(SEEDS)
@examples(60)
def test_layouts_keep_clevrs_constraints(seed: int) -> None:
    layout = sample_layout(np.random.default_rng(seed), SceneRules())
    assert 3 <= len(layout.objects) <= 10
    position = layout.centres()[:, :2]
    assert np.abs(position).max() <= 3
    reach = np.array([RADII[o.size] for o in layout.objects])
    directions = layout.camera.directions()
    for i, j in combinations(range(len(reach)), 2):
        offset = position[i] - position[j]
        assert math.hypot(*offset) >= reach[i] + reach[j] + 0.25 - 1e-9
        for name in ("left", "right", "front", "behind"):
            along = float(offset @ directions[name][:2])
            assert abs(along) >= 0.4 - 1e-9
    assert np.all(layout.centres()[:, 2] == reach)  # of cubes too


@given(SEEDS)
@examples(30)
def test_scene_record_agrees_with_its_geometry(seed: int) -> None:
    rules = SceneRules()
    layout = sample_layout(np.random.default_rng(seed), rules)
    scene = to_scene(layout, rules, "train", 7, 480, 320)
    assert scene.image_filename == "CLEVR_train_000007.png"
    assert set(scene.directions) == {"left", "right", "front", "behind", "above", "below"}
    axes = {k: np.array(v) for k, v in scene.directions.items()}
    for name, opposite in (("left", "right"), ("front", "behind"), ("above", "below")):
        assert np.allclose(axes[name], -axes[opposite])
        assert np.linalg.norm(axes[name]) == pytest.approx(1)
    assert axes["left"] @ axes["front"] == pytest.approx(0, abs=1e-9)
    # Viewed from above with front towards the viewer, right is to the right.
    assert np.allclose(np.cross(axes["right"], axes["behind"]), axes["above"])
    coords = [np.array(o.coords) for o in scene.objects]
    for name in ("left", "right", "front", "behind"):
        for i, row in enumerate(scene.relationships[name]):
            expected = [
                j for j, c in enumerate(coords) if float((c - coords[i]) @ axes[name]) > 0.2
            ]
            assert row == expected


def test_pixel_coordinates_agree_with_relations() -> None:
    for scene in sample_scenes(3, 20):
        for o in scene.objects:
            assert 0 <= o.pixel_coords[0] < 480
            assert 0 <= o.pixel_coords[1] < 320
            assert 5 < o.pixel_coords[2] < 17
        depth = [o.pixel_coords[2] for o in scene.objects]
        for i, row in enumerate(scene.relationships["behind"]):
            for j in row:
                # Depth also depends on the heights of the two objects, by less than 0.35.
                assert depth[j] > depth[i] - 0.35


def test_projection_against_a_homogeneous_matrix() -> None:
    camera = Camera.looking_at_origin(np.array([7.2, -6.9, 5.6]))
    rotation = np.stack([camera.right, -camera.up, camera.forward])
    assert np.allclose(rotation @ rotation.T, np.eye(3))
    k = np.array([[525.0, 0, 240], [0, 525.0, 160], [0, 0, 1]])
    matrix = k @ rotation @ np.hstack([np.eye(3), -camera.position[:, None]])
    for point in np.random.default_rng(0).uniform(-3, 3, (20, 3)):
        x, y, w = matrix @ np.append(point, 1.0)
        assert camera.project(point, 480, 320) == pytest.approx((x / w, y / w, w))


@pytest.mark.parametrize("condition", ["A", "B"])
def test_cogent_restricts_colours_by_shape(condition: str) -> None:
    rules, rng = SceneRules(cogent=condition), np.random.default_rng(1)
    sampled: dict[str, set[str]] = {"cube": set(), "cylinder": set(), "sphere": set()}
    for _ in range(150):
        layout = sample_layout(rng, rules)
        for thing in layout.objects:
            sampled[thing.shape].add(thing.color)
    assert sampled == {shape: set(colors) for shape, colors in COGENT[condition].items()}
    other = COGENT["B" if condition == "A" else "A"]
    assert sampled["cube"] == set(other["cylinder"]) and not sampled["cube"] & set(other["cube"])


def test_attributes_are_uniform() -> None:
    rng, rules = np.random.default_rng(5), SceneRules()
    layouts = [sample_layout(rng, rules) for _ in range(600)]
    for name, values in (("shape", 3), ("color", 8), ("material", 2)):
        drawn = [getattr(thing, name) for layout in layouts for thing in layout.objects]
        counts = np.unique(drawn, return_counts=True)[1]
        expected = len(drawn) / values
        assert len(counts) == values
        # Chi-squared with up to 7 degrees of freedom: below 24 in 99.9% of cases. Crowded
        # layouts that are restarted favour small objects, but no other attribute value.
        assert float(((counts - expected) ** 2 / expected).sum()) < 24


def test_visibility_threshold_scales_with_area() -> None:
    rules = SceneRules()
    assert rules.min_visible(320, 240) == 200
    assert rules.min_visible(640, 480) == 800
    assert rules.min_visible(96, 96) == 24


@pytest.mark.parametrize(
    "options",
    [
        {"min_objects": 5, "max_objects": 3},
        {"cogent": "C"},
        {"max_tries": 0},
        {"cogent": "A", "colors": ("red", "green")},  # no colour for cubes
        {"cogent": "split", "colors": ("gray",)},
    ],
)
def test_invalid_rules_are_refused_by_name(options: dict) -> None:
    with pytest.raises(UserError, match=next(iter(options))):
        SceneRules(**options)


def test_numbers_of_objects_are_uniform_despite_rejections(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    outcomes = []

    def counted(*arguments: Any) -> Rendered | None:
        rendered = render(*arguments)
        outcomes.append(rendered is not None)
        return rendered

    monkeypatch.setattr("filmvqa.worlds.clevr.render.render", counted)
    rng, rules = np.random.default_rng(0), SceneRules(min_pixels=400)
    numbers = [len(sample_and_render(rng, rules, 32, 32, 1)[0].objects) for _ in range(800)]
    assert outcomes.count(False) > 200
    counts = np.bincount(numbers, minlength=11)[3:]
    # Chi-squared with 7 degrees of freedom: below 24 in 99.9% of cases.
    assert len(counts) == 8
    assert float(((counts - 100) ** 2 / 100).sum()) < 24


def test_layouts_of_one_scene_share_number_camera_and_lamps() -> None:
    for seed in range(5):
        scene = sample_layouts(np.random.default_rng(seed), SceneRules())
        first, second = next(scene), next(scene)
        assert len(first.objects) == len(second.objects)
        assert first.camera is second.camera
        assert np.array_equal(first.lamps, second.lamps)
        assert first.objects != second.objects


def test_pixel_coordinates_are_whole_numbers_as_in_the_release() -> None:
    (scene,) = sample_scenes(0, 1)
    written = json.loads(encode_json(scene))
    assert [type(v) for v in written["objects"][0]["pixel_coords"]] == [int, int, float]
    for pixel_coords in ([269, 88, 12.66], [269.0, 88.5, 12.66]):  # other generators write floats
        written["objects"][0]["pixel_coords"] = pixel_coords
        read = msgspec.json.decode(msgspec.json.encode(written), type=Scene)
        assert list(read.objects[0].pixel_coords) == pixel_coords


def test_objects_that_do_not_fit_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("filmvqa.worlds.clevr.scenes.MAX_RESTARTS", 20)
    with pytest.raises(UserError, match="rules: 40 objects did not fit"):
        sample_layout(np.random.default_rng(0), SceneRules(min_objects=40, max_objects=40))
    rules = SceneRules(min_objects=9, max_objects=40)
    refused = 0
    for seed in range(20):  # a number that does not fit is not replaced by a smaller one
        try:
            sample_layout(np.random.default_rng(seed), rules)
        except UserError as error:
            assert "objects did not fit" in str(error)
            refused += 1
    assert refused >= 10
