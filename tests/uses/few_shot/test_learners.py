"""The answers of learners in an episode, compared with plain loops."""

from __future__ import annotations

import pytest
import torch
from sklearn.linear_model import LogisticRegression as Reference
from torch import Tensor
from torch.func import functional_call
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from filmvqa.film import film
from filmvqa.uses.few_shot.learners import (
    KINDS,
    InnerSteps,
    LogisticRegression,
    Prototypes,
)
from filmvqa.uses.few_shot.network import ConceptNetwork
from filmvqa.uses.few_shot.training import answer


@pytest.fixture
def episode() -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(0)
    labels = (torch.arange(10) < 5).double()
    return torch.rand(10, 4, 6).double(), labels, torch.rand(10, 4, 6).double()


@pytest.fixture
def network() -> ConceptNetwork:
    torch.manual_seed(1)
    return ConceptNetwork(6, 5).double()


def test_the_network_applies_film_as_it_is(
    network: ConceptNetwork, episode: tuple[Tensor, ...]
) -> None:
    gamma, beta = torch.randn(2, 2, 5).double()
    x = network.stem(episode[0]).relu()
    for layer, g, b in zip(network.layers, gamma, beta, strict=True):
        y = film(layer(x).flatten(0, 1), g.expand(40, 5), b.expand(40, 5))
        x = x + y.relu().view_as(x)
    torch.testing.assert_close(network(episode[0], gamma, beta)[1], x.amax(1))


@pytest.mark.parametrize("fast", ["film", "all", "head"])
def test_inner_steps_follow_the_gradient(
    fast: str, network: ConceptNetwork, episode: tuple[Tensor, ...]
) -> None:
    """Compare with plain autograd in a loop."""
    shown, labels, asked = episode
    learner = InnerSteps(network, fast, steps=3, rate=0.1)
    values = network.unmodulated()
    weights = {n: w.detach() for n, w in network.named_parameters()}
    moving = values if fast == "film" else weights
    names = [n for n in moving if fast != "head" or n.startswith("head.")]
    assert learner.adapted == sum(moving[n].numel() for n in names)
    for _ in range(3):
        for n in names:
            moving[n] = moving[n].detach().requires_grad_()
        loss = cross_entropy(functional_call(network, weights, (shown,), values)[0], labels)
        slopes = torch.autograd.grad(loss, [moving[n] for n in names])
        for n, slope in zip(names, slopes, strict=True):
            moving[n] = moving[n] - 0.1 * slope
    expected = functional_call(network, weights, (asked,), values)[0]
    torch.testing.assert_close(learner(*episode), expected)


@pytest.mark.parametrize("fast", ["film", "all", "head"])
def test_gradients_through_inner_steps_are_those_of_finite_differences(
    fast: str, network: ConceptNetwork, episode: tuple[Tensor, ...]
) -> None:
    learner = InnerSteps(network, fast, steps=2, rate=0.1).double()
    learner(*episode).square().sum().backward()
    for name in ("network.stem.weight", "network.layers.1.bias"):
        weight = learner.get_parameter(name)
        losses = []
        for shift in (1e-6, -1e-6):
            with torch.no_grad():
                weight.view(-1)[1] += shift
            losses.append(learner(*episode).square().sum().item())
            with torch.no_grad():
                weight.view(-1)[1] -= shift
        assert weight.grad is not None
        slope = (losses[0] - losses[1]) / 2e-6
        assert weight.grad.view(-1)[1].item() == pytest.approx(slope, rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("name", KINDS)
def test_episodes_of_a_batch_do_not_touch_each_other(name: str) -> None:
    torch.manual_seed(2)
    learner = KINDS[name](ConceptNetwork(6, 5)).double()
    x, labels = torch.rand(3, 20, 4, 6).double(), (torch.arange(20) % 2).double().expand(3, 20)
    together = answer(learner, dict(learner.named_parameters()), x, labels)
    for i in range(3):
        torch.testing.assert_close(together[i], learner(x[i, :10], labels[i, :10], x[i, 10:]))


def test_prototypes_take_the_nearer(network: ConceptNetwork, episode: tuple[Tensor, ...]) -> None:
    shown, labels, asked = episode
    embed = lambda x: network(x, **network.unmodulated())[1]  # noqa: E731
    centres = [embed(shown[labels == label]).mean(0) for label in (0, 1)]
    nearer = [(e - centres[1]).norm() < (e - centres[0]).norm() for e in embed(asked)]
    assert (Prototypes(network)(*episode) > 0).tolist() == [bool(n) for n in nearer]


def test_post_multipliers_of_zero_leave_prototypes_as_they_are(
    network: ConceptNetwork, episode: tuple[Tensor, ...]
) -> None:
    conditioned = Prototypes(network, "linear", penalty=0.5).double()
    torch.testing.assert_close(conditioned(*episode), Prototypes(network)(*episode))
    with torch.no_grad():
        conditioned.multipliers.fill_(1.0)
    assert not torch.allclose(conditioned(*episode), Prototypes(network)(*episode))
    penalty = torch.as_tensor(conditioned.penalty())
    assert penalty.item() == 0.5 * 20


def test_logistic_regression_is_that_of_scikit_learn(episode: tuple[Tensor, ...]) -> None:
    shown, labels, asked = episode
    reference = Reference(C=1 / 0.5, tol=1e-8).fit(shown.amax(1), labels)
    expected = torch.from_numpy(reference.decision_function(asked.amax(1).numpy()))
    actual = LogisticRegression(6, penalty=0.5)(*episode)
    torch.testing.assert_close(
        actual, expected, rtol=0.0, atol=5e-3
    )  # the bias has a small penalty
