"""Sets of places against explicit sums, and the head's inputs in a network with sets."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.models.attentive_read import SHARPNESS
from filmvqa.models.blocks import FilmedResBlock
from filmvqa.models.film_net import FilmNet
from filmvqa.models.place_sets import PlaceSets, PlaceWeights
from tests.models.test_blocks import modulation

SMALL = {
    "channels": 6, "num_blocks": 3, "reads": True, "coordinates": "none",
    "encoder": {"embedding_dim": 4, "hidden_dim": 5},
    "block": {"input_proj_kernel": 0, "kernel_size": 1},
    "classifier": {"projection_dim": 0, "pool": "branch", "hidden_dims": [7]},
}  # fmt: skip


def small_net(**options: object) -> FilmNet:
    torch.manual_seed(0)
    return FilmNet(9, 5, (3, 4, 4), sets=2, **SMALL, **options)


@given(channels=st.integers(1, 5), places=st.integers(1, 6), sets=st.integers(1, 3))
def test_a_place_belongs_by_a_sigmoid_and_is_counted_by_its_weight(
    channels: int, places: int, sets: int
) -> None:
    torch.manual_seed(channels + 7 * places)
    module = PlaceSets(channels, sets)
    branch, weights = torch.randn(2, places, channels), torch.rand(2, places)
    keys = torch.randn(2, PlaceSets.key_dim(channels, sets))
    read_scores = torch.randn(2, places)
    added, counts, _ = module(branch, keys, weights, read_scores)
    attention = torch.softmax(read_scores, 1)
    expected = attention[..., None] * module.write.weight[:, sets]
    for s in range(sets):
        key, bias = keys[:, s * channels : (s + 1) * channels], keys[:, sets * channels + s]
        products = (branch * key[:, None]).sum(2)  # (B, N)
        membership = torch.sigmoid(SHARPNESS / math.sqrt(channels) * products + bias[:, None])
        assert torch.allclose(counts[:, s], (membership * weights).sum(1), atol=1e-5)
        expected = expected + membership[..., None] * module.write.weight[:, s]
    assert torch.allclose(added, expected, atol=1e-5)


def test_two_equal_objects_count_as_two_where_a_read_finds_the_same() -> None:
    """An attentive read cannot count the objects that fit the key."""
    torch.manual_seed(0)
    block = FilmedResBlock(4, sets=1, coordinates="none", input_proj_kernel=0, kernel_size=1)
    block.eval()
    one, other = torch.randn(4), torch.randn(4)
    pictures = [torch.stack(p)[None].transpose(1, 2)[..., None] for p in ([one, other], [one] * 2)]
    parameters = modulation(4, batch=1, key=4 + PlaceSets.key_dim(4, 1))
    alone = torch.stack([one])[None].transpose(1, 2)[..., None]
    twice, single = block(pictures[1], parameters), block(alone, parameters)
    assert torch.allclose(twice.read, single.read, atol=1e-5)
    assert torch.allclose(twice.counts, 2 * single.counts, atol=1e-5)


@pytest.mark.parametrize("size", [(4, 4), (2, 2), (4, 1)])
def test_a_places_weight_is_the_sum_of_those_it_stands_for(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    module, features = PlaceWeights(3, size), torch.randn(2, 3, 4, 4)
    fine = torch.sigmoid(module.conv(features))[:, 0]
    summed = fine.view(2, size[0], 4 // size[0], size[1], 4 // size[1]).sum((2, 4))
    assert torch.allclose(module(features), summed, atol=1e-5)


@pytest.mark.parametrize(("head_inputs", "num_blocks"), [("last", 1), ("all", 3)])
def test_the_classifier_sees_the_last_block_or_all(head_inputs: str, num_blocks: int) -> None:
    net = small_net(head_inputs=head_inputs).eval()
    # For each block: the read, maximum and mean, and two counts.
    assert net.classifier.mlp[0].in_features == num_blocks * (6 + 2 * 6 + 2)
    features, questions = torch.randn(2, 3, 4, 4), torch.tensor([[1, 4, 2], [1, 5, 2]])
    inputs: list[torch.Tensor] = []
    net.classifier.mlp.register_forward_pre_hook(lambda module, args: inputs.append(args[0]))
    net(features, questions)
    net.film_generator.register_forward_hook(
        lambda module, args, out: out._replace(gamma=out.gamma.index_fill(1, torch.tensor([0]), 0))
    )
    net(features, questions)
    before, after = inputs
    changed = (before != after).any(0)
    # The first block's read is an input of the head only if all blocks are.
    assert changed[:6].any()
    assert changed.shape == (num_blocks * 20,)


def test_each_weight_has_a_gradient() -> None:
    """This includes the last block, although nothing reads its map."""
    net = small_net(head_inputs="all", initial_biases="uniform")
    net(torch.randn(3, 3, 4, 4), torch.tensor([[1, 4, 2], [1, 5, 2], [1, 6, 2]])).sum().backward()
    without = [name for name, weight in net.named_parameters() if weight.grad is None]
    assert not without


def test_places_count_by_their_weights_in_a_network() -> None:
    net = small_net().eval()
    features, questions = torch.randn(1, 3, 4, 4), torch.tensor([[1, 4, 2]])
    counts: list[torch.Tensor] = []
    net.blocks[-1].sets.register_forward_hook(lambda module, args, out: counts.append(out[1]))
    net(features, questions)
    net.place_weights.conv.bias.data += 100  # each place counts 1
    net(features, questions)
    net.place_weights.conv.bias.data -= 200  # no place counts
    net(features, questions)
    some, every, none = counts
    assert (none.abs() < 1e-6).all()
    assert (some < every).all()
