from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
import torch.nn.functional as F

from filmvqa.film import film
from filmvqa.models.attentive_read import SHARPNESS
from filmvqa.models.blocks import FilmedResBlock, FilmPosition
from filmvqa.models.classifier import Classifier
from filmvqa.models.conditioning import CONDITIONINGS, Conditioning, DualAttention, SpatialFilm
from filmvqa.models.protocols import Modulation
from filmvqa.settings.typed import Positive
from tests.models.small_models import questions, small


def modulation(channels: int, extra: int = 0, batch: int = 2, key: int = 0) -> Modulation:
    return Modulation(*(torch.randn(batch, width) for width in (channels, channels, extra, key)))


@pytest.mark.parametrize("position", get_args(FilmPosition))
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
    assert torch.allclose(block(x, parameters).x, expected, atol=1e-6)


@pytest.mark.parametrize("input_proj_kernel", [0, 1])
def test_a_block_reads_where_its_modulated_branch_fits_the_key(input_proj_kernel: int) -> None:
    """The read is computed position by position. Without a key, the output is the same."""
    torch.manual_seed(0)
    block = FilmedResBlock(4, input_proj_kernel=input_proj_kernel).eval()
    x, parameters = torch.randn(2, 4, 3, 5), modulation(4, key=4)
    out, read, branch, *_ = block(x, parameters, pool_branch=True)
    assert torch.equal(out, block(x, parameters._replace(key=torch.empty(2, 0))).x)
    skip = x if block.project is None else F.relu(block.project(x))
    pooled = torch.cat([(out - skip).amax((2, 3)), (out - skip).mean((2, 3))], 1)
    assert torch.allclose(branch, pooled, atol=1e-6)
    assert block(x, parameters).branch is None
    for n in range(2):
        scores = [
            SHARPNESS * (parameters.key[n] @ (out - skip)[n, :, i, j]).item() / math.sqrt(4)
            for i in range(3)
            for j in range(5)
        ]
        weights = torch.tensor([math.exp(s) for s in scores])
        expected = (out[n].flatten(1) * weights / weights.sum()).sum(1)
        assert torch.allclose(read[n], expected, atol=1e-5)


@pytest.mark.parametrize("input_proj_kernel", [0, 1])
def test_all_positions_are_given_the_context(input_proj_kernel: int) -> None:
    torch.manual_seed(0)
    options = {"context_dim": 3, "input_proj_kernel": input_proj_kernel, "kernel_size": 1}
    block = FilmedResBlock(4, False, "none", **options).eval()
    x, context = torch.randn(2, 4, 5, 5), torch.randn(2, 3)
    assert torch.equal(block(x, None).x, block(x, None, torch.zeros(2, 3)).x)
    first = block.conv if block.project is None else block.project
    before = block(x, None, context).x
    # The context acts like another bias for each question.
    for n in range(2):
        bias = first.bias.data.clone()
        first.bias.data += block.context(context[n])
        assert torch.allclose(block(x[n : n + 1], None).x, before[n : n + 1], atol=1e-6)
        first.bias.data = bias


def test_reads_reach_the_next_block_and_the_classifier() -> None:
    net = small("film", reads=True).eval()
    assert net.blocks[0].context is None
    assert net.blocks[1].context.in_features == 12
    assert net.classifier.mlp[0].in_features == 10 + 12
    features, rows = torch.randn(3, 6, 5, 5), questions([4, 7, 2])
    before = net(features, rows)
    for blocked in (net.blocks[1].context.weight, net.classifier.mlp[0].weight[:, 10:]):
        kept = blocked.data.clone()
        blocked.data.zero_()
        assert not torch.allclose(net(features, rows), before)
        blocked.data.copy_(kept)
    assert torch.equal(net(features, rows), before)


def test_the_classifier_takes_the_last_conditioned_blocks_branch() -> None:
    classifier = {"projection_dim": 0, "pool": "branch", "hidden_dims": [14]}
    net = small("film", classifier=classifier, film_blocks=[True, False], reads=True).eval()
    features, rows = torch.randn(3, 6, 5, 5), questions([4, 7, 2])
    output = net.blocks[0](net.stem(features), net.modulate(rows).layer(0), pool_branch=True)
    expected = net.classifier.mlp(torch.cat([output.branch, output.read], 1))
    assert torch.allclose(net(features, rows), expected, atol=1e-5)


def test_maximum_and_mean_side_by_side() -> None:
    classifier = Classifier(4, (5, 7), 3, projection_dim=0, coordinates=False,
                            pool="maxavgpoolfull", hidden_dims=[])  # fmt: skip
    x = torch.randn(2, 4, 5, 7)
    expected = classifier.mlp(torch.cat([x.amax((2, 3)), x.mean((2, 3))], 1))
    assert torch.allclose(classifier(x), expected, atol=1e-6)


def test_batch_norm_has_its_own_scale_where_the_question_does_not_act() -> None:
    assert not FilmedResBlock(4).norm.affine
    assert FilmedResBlock(4, conditioned=False).norm.affine
    x = torch.randn(2, 4, 5, 5)
    assert FilmedResBlock(4, conditioned=False)(x, None).x.shape == x.shape


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
    assert out.std((2, 3)).min() > 0  # equal features at different coordinates


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
    model = small("film", block={"conditioning": conditioning})
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
        # The first convolution of spatial FiLM gets gradients once its deviations are not zero.
        if conditioning != "spatial_film":
            assert weight.grad.abs().sum() > 0 or name.endswith("bias"), name


def test_blocks_without_film() -> None:
    assert small("film", film_blocks=[False, True]).film_generator.num_layers == 1
    unconditioned = small("film", film_blocks=[False, False]).eval()
    assert unconditioned.film_generator is None
    features, rows = torch.randn(2, 6, 5, 5), questions([4, 6])
    assert torch.equal(unconditioned(features, rows), unconditioned(features, rows.flip(0)))
    assert not unconditioned.has_film_penalty


@pytest.mark.parametrize(
    ("pool", "height", "width"),
    [
        ("none", 7, 9), ("avgpool2", 7, 9), ("maxpool3", 7, 9),
        ("aggressive", 7, 7), ("avgpoolfull", 7, 7),  # only square maps, as in the original
    ],
)  # fmt: skip
def test_pools_over_maps_of_other_sizes(pool: str, height: int, width: int) -> None:
    classifier = {"pool": pool, "projection_dim": 5}
    model = small("film", classifier=classifier, feature_shape=[6, height, width]).eval()
    assert model(torch.randn(2, 6, height, width), questions([4, 6])).shape == (2, 7)


class ReadingWords(Conditioning):
    """Cross-attention: each place adds a vector that it reads from the question's words."""

    uses_gamma_beta = False
    reads_words = True

    def __init__(
        self,
        channels: int,
        map_size: tuple[int, int] | None = None,
        words_dim: int = 0,
        *,
        heads: Positive = 1,
    ) -> None:
        super().__init__(channels, map_size, words_dim)
        self.attention = torch.nn.MultiheadAttention(
            channels, heads, kdim=words_dim, vdim=words_dim, batch_first=True
        )

    def forward(self, x: torch.Tensor, modulation: Modulation) -> torch.Tensor:
        places = x.flatten(2).transpose(1, 2)  # (B, N, C)
        words, padding = modulation.words, modulation.padding
        read, _ = self.attention(places, words, words, key_padding_mask=padding)
        return x + read.transpose(1, 2).view_as(x)


def test_a_users_conditioning_reads_words_and_takes_options(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(CONDITIONINGS, "reading_words", ReadingWords)
    block = {"conditioning": "reading_words", "conditioning_options": {"heads": 3}}
    model = small("film", block=block)
    assert model.blocks[0].condition.attention.num_heads == 3
    features, rows = torch.randn(2, 6, 5, 5), questions([4, 6])
    answers = model.eval()(features, rows)
    assert not torch.allclose(answers, model(features, rows.flip(0)), atol=1e-5)
    assert torch.allclose(model(features, F.pad(rows, (0, 3))), answers, atol=1e-5)
