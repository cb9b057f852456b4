from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.backbones import clevr_cnn
from filmvqa.backbones.backbone import compute_maps
from filmvqa.backbones.build import build_backbone
from filmvqa.backbones.clevr_slots import on_picture, slot_positions
from filmvqa.backbones.object_heads import IS_OBJECT, ObjectHeads, find_objects
from filmvqa.system.errors import UserError
from filmvqa.worlds.clevr.render import sample_and_render
from filmvqa.worlds.clevr.scene_rules import SceneRules

SHIPPED = Path(clevr_cnn.__file__).parent / "weights" / clevr_cnn.SHIPPED_WEIGHTS


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped weights with random heads, for which some cells of any image are places."""
    path = tmp_path_factory.mktemp("weights") / "w.safetensors"
    torch.manual_seed(0)
    heads = ObjectHeads(96, 15)
    with torch.no_grad():
        heads.linear.bias[15] = 0.0
    state = safetensors.torch.load_file(SHIPPED) | heads.state_dict(prefix="heads.")
    safetensors.torch.save_file(state, path)
    return path


def _images() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randint(0, 256, (3, 3, 6, 6), generator=generator).float()
    return torch.nn.functional.interpolate(coarse, (48, 48)).byte()


def test_slots_are_the_cells_where_objects_are(weights: Path) -> None:
    images = _images()
    backbone = build_backbone("clevr_slots_6", weights=weights)
    grid = build_backbone("clevr_places", weights=weights)
    with torch.inference_mode():
        slots, maps = backbone(images), grid(images)
    assert slots.shape == (3, 96 + 3, 6, 1)
    assert maps.shape == (3, 96 + 1, 6, 6)
    taken = slots[:, -1, :, 0] > 0
    assert taken.any()
    for n in range(3):
        with torch.inference_mode():
            offsets = backbone.network.heads(maps[n : n + 1, :-1])[2]
        probabilities, cells = find_objects(maps[n : n + 1, -1], offsets, 6)
        for k in range(6):
            if taken[n, k]:
                features = maps[n, :-1].flatten(1)[:, cells[0, k]]
                assert slots[n, :96, k, 0].allclose(features, atol=1e-4)
                assert slots[n, -1, k, 0] == pytest.approx(float(probabilities[0, k]), abs=1e-4)
            else:
                assert not slots[n, :, k].any()


def test_slots_do_not_depend_on_the_batch_or_on_preparation(weights: Path) -> None:
    images = _images()
    backbone = build_backbone("clevr_slots", weights=weights)
    prepared = backbone.prepared(torch.device("cpu"), bfloat16=False)
    together = compute_maps(prepared, images)
    alone = torch.cat([compute_maps(prepared, image[None]) for image in images])
    assert together.is_contiguous()
    assert together.allclose(alone, atol=2e-2)
    with torch.inference_mode():
        assert together.float().allclose(backbone(images), atol=2e-2)


def test_clevr_cnn_ignores_heads_and_slots_need_them(weights: Path) -> None:
    images = _images()
    with torch.inference_mode():
        maps = build_backbone("clevr_cnn", weights=weights)(images)
        assert maps.equal(build_backbone("clevr_cnn")(images))
        with_places = build_backbone("clevr_places", weights=weights)(images)
    assert with_places[:, :-1].equal(maps)
    for name in ("clevr_slots", "clevr_places"):
        with pytest.raises(UserError, match=f"no heads, which {name} needs"):
            build_backbone(name, weights=SHIPPED)


def test_the_shipped_heads_find_the_objects_of_fresh_pictures() -> None:
    rng, rules = np.random.default_rng(2027), SceneRules()
    drawn = [sample_and_render(rng, rules, 144, 144) for _ in range(60)]
    images = torch.stack([torch.from_numpy(r.image).permute(2, 0, 1) for _, r in drawn])
    slots = compute_maps(build_backbone("clevr_slots"), images)  # (N, 99, 10, 1)
    centres_of_slots = slot_positions({"backbone": "clevr_slots"}, slots)
    sums = compute_maps(build_backbone("clevr_places"), images)[:, -1].sigmoid().sum((1, 2))
    numbers, near = [], []
    for (layout, _), positions in zip(drawn, centres_of_slots, strict=True):
        taken = positions[positions.isfinite().all(1)]
        numbers.append(len(taken) == len(layout.objects))
        centres = [layout.camera.project(c, 1, 1)[:2] for c in layout.centres()]
        distances = torch.cdist(torch.tensor(centres, dtype=taken.dtype), taken)
        near += (distances.amin(1) < 0.03).tolist()  # of the picture's width
    assert np.mean(numbers) > 0.93 and np.mean(near) > 0.97
    errors = sums.float() - torch.tensor([len(layout.objects) for layout, _ in drawn])
    assert (errors.abs() < 0.5).float().mean() > 0.85


COLUMNS, ROWS = torch.arange(8) + 0.5, (torch.arange(8) + 0.5)[:, None]


@given(
    x=st.floats(0.5, 7.5), y=st.floats(0.5, 7.5),
    distance=st.tuples(st.floats(-3, 3), st.floats(-3, 3)).filter(lambda d: max(map(abs, d)) > 1.5),
)  # fmt: skip
def test_an_object_between_cells_is_one_object(
    x: float, y: float, distance: tuple[float, float]
) -> None:
    """Its probability of 1 is shared among the cells around its centre. An object near it is a
    second object."""
    shares, offsets = torch.zeros(1, 8, 8), torch.full((1, 2, 8, 8), 20.0)
    centres = [(x, y)]
    other = x + distance[0], y + distance[1]
    if all(0.5 <= side <= 7.5 for side in other):
        centres.append(other)
    for cx, cy in centres:
        share = (1 - (COLUMNS - cx).abs()).clamp(min=0) * (1 - (ROWS - cy).abs()).clamp(min=0)
        larger = share > shares[0]
        offsets[0, 0][larger] = (cx - COLUMNS).expand(8, 8)[larger]
        offsets[0, 1][larger] = (cy - ROWS).expand(8, 8)[larger]
        shares[0] = torch.maximum(shares[0], share)
    probabilities, cells = find_objects(shares.logit(1e-6), offsets, 6)
    assert int((probabilities > IS_OBJECT).sum()) == len(centres)
    for cx, cy in centres:
        errors = [(c % 8 + 0.5 - cx, c // 8 + 0.5 - cy) for c in cells[0, : len(centres)].tolist()]
        assert min(max(abs(a), abs(b)) for a, b in errors) <= 0.5 + 1e-6


def test_values_of_slots_are_put_at_their_objects() -> None:
    spec = {"backbone": "clevr_slots_6", "image_size": [32, 48]}
    slots = torch.zeros(99, 6, 1)
    slots[-3:, 0, 0] = torch.tensor([2 * 4.5 / 6 - 1, 2 * 1.5 / 4 - 1, 1.0])
    slots[-3:, 2, 0] = torch.tensor([-1.3, 1.3, 0.9])  # beyond the border
    values = torch.tensor([5.0, 1.0, 7.0, 2.0, 3.0, 4.0])[None, :, None]
    laid = on_picture(spec, slots, values)
    assert laid.shape == (1, 4, 6)
    assert laid[0, 1, 4] == 5
    assert laid[0, 3, 0] == 7
    assert (laid == 1).sum() == 22
    assert on_picture({**spec, "backbone": "clevr_cnn"}, slots, values) is values
    assert on_picture(None, slots, values) is values
