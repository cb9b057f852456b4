from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from filmvqa.film import film
from filmvqa.models import build_model
from filmvqa.models.blocks import CONDITIONINGS, FILM_POSITIONS, FilmedResBlock
from filmvqa.models.conditioning import DualAttention, SpatialFilm
from filmvqa.models.film_generator import Modulation
from tests.models.small_models import SIZES, SMALL, questions


def modulation(channels: int, extra: int = 0, batch: int = 2) -> Modulation:
    return Modulation(
        torch.randn(batch, channels), torch.randn(batch, channels), torch.randn(batch, extra)
    )


@pytest.mark.parametrize("position", FILM_POSITIONS)
@pytest.mark.parametrize("residual", [True, False])
def test_film_acts_at_its_position(position: str, residual: bool) -> None:
    torch.manual_seed(0)
    block = FilmedResBlock(4, film_position=position, residual=residual, norm_affine=True).eval()
    torch.nn.init.normal_(block.norm.weight)
    x, parameters = torch.randn(2, 4, 5, 5), modulation(4)

    def film_at(candidate: str, y: torch.Tensor) -> torch.Tensor:
        return film(y, parameters.gamma, parameters.beta) if candidate == position else y

    skip = F.relu(block.project(film_at("before_conv1", x)))
    y = block.norm(film_at("after_conv2", block.conv(skip)))
    y = film_at("after_relu2", F.relu(film_at("after_norm", y)))
    expected = film_at("after_residual", skip + y if residual else y)
    assert torch.allclose(block(x, parameters), expected, atol=1e-6)


def test_batch_norm_has_its_own_scale_where_the_question_does_not_act() -> None:
    assert not FilmedResBlock(4).norm.affine
    assert FilmedResBlock(4, conditioned=False).norm.affine
    x = torch.randn(2, 4, 5, 5)
    assert FilmedResBlock(4, conditioned=False)(x, None).shape == x.shape


@pytest.mark.parametrize("coordinates", ["none", "inputs", "everywhere"])
def test_where_coordinates_join(coordinates: str) -> None:
    block = FilmedResBlock(4, coordinates=coordinates)
    extra = {"none": (0, 0), "inputs": (2, 0), "everywhere": (2, 2)}[coordinates]
    assert block.project.weight.shape[1] == 4 + extra[0]
    assert block.conv.weight.shape[1] == 4 + extra[1]
    assert FilmedResBlock(4, coordinates=coordinates, input_proj_kernel=0).project is None


def test_spatial_film_starts_as_film_and_then_differs_by_place() -> None:
    layer, parameters, x = SpatialFilm(4, rank=3), modulation(4, 3), torch.randn(2, 4, 5, 5)
    assert torch.equal(layer(x, parameters), film(x, parameters.gamma, parameters.beta))
    torch.nn.init.normal_(layer.deviate)
    flat = torch.ones(2, 4, 5, 5)
    out = layer(flat, parameters) - film(flat, parameters.gamma, parameters.beta)
    assert out.std((2, 3)).min() > 0  # the same features, but other coordinates


def test_dual_attention_against_its_formula_in_float64() -> None:
    layer, parameters = DualAttention(3), modulation(3, 6)
    x = torch.randn(2, 3, 2, 4)
    out = layer(x, parameters)
    for i in range(2):
        gates = [1 / (1 + math.exp(-float(e))) for e in parameters.extra[i]]
        y = x[i].double()
        sums = sum(gates[c] * y[c] for c in range(3)) / math.sqrt(3)
        attention = sums.exp() / sums.exp().sum() * 8
        for c in range(3):
            assert torch.allclose(out[i, c].double(), gates[3 + c] * attention * y[c], atol=1e-5)


@pytest.mark.parametrize("conditioning", [*CONDITIONINGS, "concat"])
def test_every_conditioning_depends_on_the_question_and_learns(conditioning: str) -> None:
    torch.manual_seed(0)
    model = build_model(
        "film", **SIZES, **SMALL["film"] | {"block": {"conditioning": conditioning}}
    )
    features, rows = torch.randn(4, 6, 5, 5), questions([4, 6, 3, 5])
    shared = torch.tensor([2, 0, 0, 1])
    model.eval()
    assert torch.allclose(model(features, rows, shared), model(features[shared], rows), atol=1e-5)
    assert not torch.allclose(model(features, rows), model(features, rows.flip(0)), atol=1e-5)
    assert model.has_film_penalty == (conditioning != "dual_attention")
    model.train()
    F.cross_entropy(model(features, rows), torch.arange(4)).backward()
    for name, weight in model.named_parameters():
        assert torch.isfinite(weight.grad).all(), name
        # What spatial FiLM describes waits until its deviations have left zero.
        if conditioning != "spatial_film":
            assert weight.grad.abs().sum() > 0 or name.endswith("bias"), name


def test_blocks_without_film() -> None:
    options = SMALL["film"] | {"film_blocks": [False, True]}
    model = build_model("film", **SIZES, **options)
    assert model.film_generator.num_layers == 1
    unconditioned = build_model("film", **SIZES, **options | {"film_blocks": [False, False]}).eval()
    assert unconditioned.film_generator is None
    features, rows = torch.randn(2, 6, 5, 5), questions([4, 6])
    assert torch.equal(unconditioned(features, rows), unconditioned(features, rows.flip(0)))
    assert not unconditioned.has_film_penalty


@pytest.mark.parametrize(
    ("pool", "height", "width"),
    [
        ("none", 7, 9), ("avgpool2", 7, 9), ("maxpool3", 7, 9),
        ("aggressive", 7, 7), ("avgpoolfull", 7, 7),  # for square maps only, as in the original
    ],
)  # fmt: skip
def test_pools_over_maps_of_other_sizes(pool: str, height: int, width: int) -> None:
    options = SMALL["film"] | {"classifier": {"pool": pool, "projection_dim": 5}}
    sizes = SIZES | {"feature_shape": [6, height, width]}
    model = build_model("film", **sizes, **options).eval()
    assert model(torch.randn(2, 6, height, width), questions([4, 6])).shape == (2, 7)
