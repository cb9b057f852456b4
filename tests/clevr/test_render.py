"""The compiled ray caster against a second renderer that marches along signed distances."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from filmvqa.clevr.camera import Camera
from filmvqa.clevr.render import NO_OBJECT, RGB, render
from filmvqa.clevr.scenes import LAMP_POSITIONS, Layout, SceneRules, sample_layout


def one_object(shape: str, material: str, color: str, half_extent: float = 0.7) -> Layout:
    return Layout(
        camera=Camera.looking_at_origin(np.array([7.48, -6.51, 5.34])),
        lamps=LAMP_POSITIONS,
        size=["large"],
        shape=[shape],
        material=[material],
        color=[color],
        position=np.array([[0.0, 0.0]]),
        half_extent=np.array([half_extent]),
        rotation=np.array([20.0]),
    )


def marched_mask(layout: Layout, width: int, height: int) -> np.ndarray:
    """Object indices by sphere tracing in float64: no ray-shape formula in common."""
    camera = layout.camera
    fx, fy = 35 / 32 * width, 35 / 32 * 1.5 * height
    ys, xs = np.mgrid[0:height, 0:width] + 0.5
    d = (
        camera.forward
        + ((xs - width / 2) / fx)[..., None] * camera.right
        - ((ys - height / 2) / fy)[..., None] * camera.up
    )
    d /= np.linalg.norm(d, axis=-1, keepdims=True)
    t = np.zeros((height, width))
    nearest = np.zeros((height, width), int)
    for _ in range(400):
        p = camera.position + t[..., None] * d
        distances = []
        for centre, half_extent, shape, angle in zip(
            layout.centres(),
            layout.half_extent,
            layout.shape,
            np.radians(layout.rotation),
            strict=True,
        ):
            q = p - centre
            if shape == "sphere":
                distances.append(np.linalg.norm(q, axis=-1) - half_extent)
                continue
            if shape == "cube":
                x = q[..., 0] * np.cos(angle) + q[..., 1] * np.sin(angle)
                y = q[..., 1] * np.cos(angle) - q[..., 0] * np.sin(angle)
                over = np.abs(np.stack([x, y, q[..., 2]], -1)) - half_extent
            else:
                rho = np.hypot(q[..., 0], q[..., 1])
                over = np.stack([rho - half_extent, np.abs(q[..., 2]) - half_extent], -1)
            outside = np.linalg.norm(np.maximum(over, 0), axis=-1)
            distances.append(outside + np.minimum(over.max(-1), 0))
        stacked = np.stack([*distances, p[..., 2]])
        nearest = stacked.argmin(0)
        t += stacked.min(0)
    mask = np.where(nearest == len(layout.half_extent), NO_OBJECT, nearest)
    return mask.astype(np.uint8)


@pytest.mark.parametrize("seed", range(6))
def test_masks_agree_with_sphere_tracing(seed: int) -> None:
    layout = sample_layout(np.random.default_rng(seed), SceneRules())
    width, height = 120, 80
    rendered = render(layout, width, height, rays=1)
    assert rendered is not None
    expected = marched_mask(layout, width, height)
    # Rays that graze an edge may fall on either side.
    assert (rendered.mask != expected).mean() < 2e-3
    counts = [int((rendered.mask == i).sum()) for i in range(len(layout.half_extent))]
    assert rendered.visible.tolist() == counts


def test_occluded_objects_are_refused_before_shading() -> None:
    layout = one_object("sphere", "rubber", "red")
    seen = render(layout, 96, 96)
    assert seen is not None
    pixels = int(seen.visible[0])
    assert render(layout, 96, 96, min_visible=pixels) is not None
    assert render(layout, 96, 96, min_visible=pixels + 1) is None


@pytest.mark.parametrize("color", RGB)
def test_rubber_shows_its_colour(color: str) -> None:
    rendered = render(one_object("sphere", "rubber", color), 96, 96)
    assert rendered is not None
    inside = rendered.image[rendered.mask == 0].astype(float).mean(0)
    linear = ((inside / 255 + 0.055) / 1.055) ** 2.4
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
            assert rendered is not None
            inside = rendered.image[rendered.mask == 0].astype(float).sum(1)
            spread[material] = np.percentile(inside, 99) / np.median(inside)
        assert spread["metal"] > spread["rubber"]


def test_metal_mirrors_its_neighbour() -> None:
    alone = one_object("sphere", "metal", "gray")
    toward = alone.camera.directions()["front"][:2] * 1.6 + alone.camera.directions()["right"][:2]
    pair = Layout(
        alone.camera, alone.lamps, ["large", "small"], ["sphere", "sphere"], ["metal", "rubber"],
        ["gray", "red"], np.stack([np.zeros(2), toward]), np.array([0.7, 0.35]), np.zeros(2),
    )  # fmt: skip
    plain, mirrored = render(alone, 160, 160), render(pair, 160, 160)
    assert plain is not None
    assert mirrored is not None
    both = (plain.mask == 0) & (mirrored.mask == 0)
    redder = (mirrored.image[..., 0].astype(int) - mirrored.image[..., 1]) - (
        plain.image[..., 0].astype(int) - plain.image[..., 1]
    )
    assert redder[both].max() > 15


def test_objects_cast_shadows_on_the_ground() -> None:
    layout = one_object("cylinder", "rubber", "gray")
    empty = replace(layout, position=np.array([[50.0, 50.0]]))
    lit, shaded = render(empty, 96, 96), render(layout, 96, 96)
    assert lit is not None
    assert shaded is not None
    ground = (shaded.mask == NO_OBJECT) & (lit.mask == NO_OBJECT)
    change = shaded.image.astype(int)[ground].sum(1) - lit.image.astype(int)[ground].sum(1)
    assert change.max() <= 3  # an object may only take light from the ground
    assert (change < -20).mean() > 0.02


def test_antialiasing_averages_rays() -> None:
    layout = one_object("cube", "rubber", "red")
    coarse, fine = render(layout, 48, 48, rays=1), render(layout, 48, 48, rays=4)
    assert coarse is not None
    assert fine is not None
    assert np.array_equal(coarse.mask, fine.mask)
    difference = np.abs(coarse.image.astype(int) - fine.image).sum(2)
    edge = np.zeros((48, 48), bool)
    edge[:-1] |= fine.mask[1:] != fine.mask[:-1]
    edge[1:] |= edge[:-1]
    assert difference[edge].mean() > 3 * difference[~edge].mean()


def test_rendering_is_repeatable() -> None:
    layout = sample_layout(np.random.default_rng(9), SceneRules())
    first, second = render(layout, 64, 48), render(layout, 64, 48)
    assert first is not None
    assert second is not None
    assert np.array_equal(first.image, second.image)


def test_the_ground_matches_the_releases(shared) -> None:
    rng = np.random.default_rng(0)
    ours = np.stack(
        [render(sample_layout(rng, SceneRules(max_objects=3)), 480, 320).image for _ in range(12)]
    ).astype(float)
    theirs = np.stack(
        [
            np.asarray(Image.open(path).convert("RGB"), float)
            for path in sorted((shared / "clevr_images").glob("*.png"))
        ]
    )
    for y, x in (
        (5, 5),
        (5, 240),
        (5, 475),
        (60, 60),
        (60, 420),
        (300, 30),
        (310, 240),
        (310, 450),
    ):
        patches = [
            np.median(images[:, y - 5 : y + 5, x - 5 : x + 5], (0, 1, 2))
            for images in (ours, theirs)
        ]
        assert np.abs(patches[0] - patches[1]).max() < 20, (y, x, patches)
