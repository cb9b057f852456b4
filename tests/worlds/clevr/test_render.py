from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from filmvqa.worlds.clevr.render import NO_OBJECT, render
from filmvqa.worlds.clevr.scene_rules import SceneRules
from filmvqa.worlds.clevr.scenes import Layout, PlacedObject
from filmvqa.worlds.clevr.surfaces import (
    COS,
    CUBE,
    HALF_EXTENT,
    RGB,
    SHAPE,
    SIN,
    X,
    Y,
    Z,
    surface_normal,
)
from tests.worlds.clevr.layouts import one_object, sample_layout
from tests.worlds.clevr.reference_renderer import sphere_traced_mask
from tests.worlds.clevr.released_scenes import SCENES, released_layout


@pytest.mark.parametrize("seed", range(6))
def test_masks_agree_with_sphere_tracing(seed: int) -> None:
    layout = sample_layout(np.random.default_rng(seed), SceneRules())
    width, height = 120, 80
    rendered = render(layout, width, height, rays=1)
    expected = sphere_traced_mask(layout, width, height)
    # Rays that graze an edge may hit in one renderer and miss in the other.
    assert (rendered.mask != expected).mean() < 2e-3
    counts = [int((rendered.mask == i).sum()) for i in range(len(layout.objects))]
    assert rendered.visible.tolist() == counts


@pytest.mark.parametrize("angle", [0.0, 0.4, 2.5])
def test_faces_of_a_rotated_cube_look_outward(angle: float) -> None:
    """A mask does not show its normals, on which light and mirror images depend."""
    cube = np.zeros((1, 12))
    cube[0, [X, Y, Z, HALF_EXTENT, SHAPE]] = 1.0, -2.0, 0.5, 0.5, CUBE
    cube[0, [COS, SIN]] = np.cos(angle), np.sin(angle)
    for turn in range(4):
        face = angle + turn * np.pi / 2
        outward = np.array([np.cos(face), np.sin(face), 0.0])
        normal = surface_normal(cube, 0, tuple(cube[0, [X, Y, Z]] + 0.5 * outward))
        np.testing.assert_allclose(normal, outward, atol=1e-6)


def test_occluded_objects_are_refused_before_shading() -> None:
    layout = one_object("sphere", "rubber", "red")
    rendered = render(layout, 96, 96)
    pixels = int(rendered.visible[0])
    assert render(layout, 96, 96, min_visible=pixels) is not None
    assert render(layout, 96, 96, min_visible=pixels + 1) is None


@pytest.mark.parametrize("color", list(RGB))
def test_rubber_shows_its_colour(color: str) -> None:
    rendered = render(one_object("sphere", "rubber", color), 96, 96)
    object_pixels = rendered.image[rendered.mask == 0].astype(float).mean(0)
    linear = ((object_pixels / 255 + 0.055) / 1.055) ** 2.4
    hue = linear / np.linalg.norm(linear)
    names = list(RGB)
    table = np.array([RGB[name] for name in names], float)
    table /= np.linalg.norm(table, axis=1, keepdims=True)
    assert names[int((table @ hue).argmax())] == color


def test_metal_is_shinier_than_rubber() -> None:
    for shape in ("sphere", "cylinder", "cube"):
        spread = {}
        for material in ("rubber", "metal"):
            rendered = render(one_object(shape, material, "blue"), 96, 96)
            object_pixels = rendered.image[rendered.mask == 0].astype(float).sum(1)
            spread[material] = np.percentile(object_pixels, 99) / np.median(object_pixels)
        assert spread["metal"] > spread["rubber"]


def with_neighbour(alone: Layout, front: float, right: float, material: str, color: str) -> Layout:
    """Add a small sphere at a distance in front and to the right of the first object."""
    directions = alone.camera.directions()
    x, y, _ = directions["front"] * front + directions["right"] * right
    neighbour = PlacedObject("small", color, material, "sphere", x, y)
    return replace(alone, objects=(*alone.objects, neighbour))


def test_metal_mirrors_its_neighbour() -> None:
    alone = one_object("sphere", "metal", "gray")
    plain = render(alone, 160, 160)
    mirrored = render(with_neighbour(alone, 1.6, 1.0, "rubber", "red"), 160, 160)
    sphere_pixels = (plain.mask == 0) & (mirrored.mask == 0)
    red = [image[..., 0].astype(int) - image[..., 1] for image in (plain.image, mirrored.image)]
    assert (red[1] - red[0])[sphere_pixels].max() > 15


def test_metal_seen_in_metal_is_shaded() -> None:
    alone = one_object("sphere", "metal", "gray")
    plain = render(alone, 160, 160, rays=4)
    mirrored = render(with_neighbour(alone, 1.2, 0.8, "metal", "cyan"), 160, 160, rays=4)
    cyan = [image[..., 2].astype(int) - image[..., 0] for image in (plain.image, mirrored.image)]
    seen = (plain.mask == 0) & (mirrored.mask == 0) & (cyan[1] - cyan[0] > 12)
    assert seen.sum() >= 8
    assert np.ptp(np.percentile(mirrored.image[seen].mean(1), [5, 95])) > 15  # flat colour: 1


def moved_away(layout: Layout) -> Layout:
    """Move the object out of sight."""
    return replace(layout, objects=(replace(layout.objects[0], x=50.0, y=50.0),))


def test_penumbrae_are_smooth_with_few_rays() -> None:
    for shape in ("sphere", "cube", "cylinder"):
        layout = one_object(shape, "rubber", "gray")
        empty = moved_away(layout)
        coarse, fine = render(layout, 240, 160, rays=2), render(layout, 240, 160, rays=8)
        lit = render(empty, 240, 160, rays=1)
        ground = np.ones((160, 240), bool)  # away from the object, whose edge has noise too
        rows, columns = np.nonzero(coarse.mask == 0)
        ground[rows.min() - 2 : rows.max() + 3, columns.min() - 2 : columns.max() + 3] = False
        shadow = ground & (lit.image.astype(int).sum(2) - fine.image.sum(2, dtype=int) > 15)
        assert shadow.sum() > 300
        assert np.abs(coarse.image.astype(int) - fine.image)[shadow].max() <= 2


def test_objects_cast_shadows_on_the_ground() -> None:
    layout = one_object("cylinder", "rubber", "gray")
    empty = moved_away(layout)
    lit, shaded = render(empty, 96, 96), render(layout, 96, 96)
    ground = (shaded.mask == NO_OBJECT) & (lit.mask == NO_OBJECT)
    change = shaded.image.astype(int)[ground].sum(1) - lit.image.astype(int)[ground].sum(1)
    assert change.max() <= 3  # objects only darken the ground
    assert (change < -20).mean() > 0.02


def test_antialiasing_averages_rays() -> None:
    layout = one_object("cube", "rubber", "red")
    coarse, fine = render(layout, 48, 48, rays=1), render(layout, 48, 48, rays=4)
    assert np.array_equal(coarse.mask, fine.mask)
    difference = np.abs(coarse.image.astype(int) - fine.image).sum(2)
    edge = np.zeros((48, 48), bool)
    edge[:-1] |= fine.mask[1:] != fine.mask[:-1]
    edge[1:] |= edge[:-1]
    assert difference[edge].mean() > 3 * difference[~edge].mean()


@pytest.mark.parametrize("name", SCENES)
def test_released_images_rendered_again(shared: Path, name: str) -> None:
    with Image.open(shared / "clevr_images" / name) as image:
        released = np.asarray(image.convert("RGB"), float)
    rendered = render(released_layout(name), 480, 320)
    ours = rendered.image.astype(float)
    assert np.abs(ours - released).mean() < 3
    assert np.abs(ours.mean((0, 1)) - released.mean((0, 1))).max() < 1.5
    assert np.abs(ours.std((0, 1)) / released.std((0, 1)) - 1).max() < 0.06
    for i in range(len(rendered.visible)):
        pixels = rendered.mask == i
        assert np.abs(ours[pixels].mean(0) - released[pixels].mean(0)).max() < 6
    assert _grain(ours) < _grain(released)


def _grain(image: np.ndarray) -> float:
    """Upper quartile over blocks of 8 × 8 pixels of the deviation from the 3 × 3 mean."""
    gray = image.mean(2)
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(gray, 1, mode="edge"), (3, 3))
    blocks = (gray - windows.mean((2, 3))).reshape(40, 8, 60, 8)
    return float(np.percentile(blocks.std((1, 3)), 75))
