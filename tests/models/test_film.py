from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.film import film


@given(st.integers(1, 4), st.integers(1, 5), st.lists(st.integers(1, 4), max_size=3))
def test_every_feature_gets_its_own_gamma_and_beta(n: int, c: int, rest: list[int]) -> None:
    x, gamma, beta = torch.randn(n, c, *rest), torch.randn(n, c), torch.randn(n, c)
    out = film(x, gamma, beta)
    assert out.shape == x.shape
    for i in range(n):
        for k in range(c):
            expected = gamma[i, k].double() * x[i, k].double() + beta[i, k].double()
            assert torch.allclose(out[i, k].double(), expected, atol=1e-6)


@pytest.mark.parametrize(("gamma", "beta"), [((3,), (2, 3)), ((2, 3), (1, 3)), ((2, 1), (2, 3))])
def test_other_shapes_are_refused_instead_of_broadcast(gamma: tuple, beta: tuple) -> None:
    with pytest.raises(ValueError, match="must be"):
        film(torch.zeros(2, 3, 4), torch.zeros(gamma), torch.zeros(beta))


def test_gradients() -> None:
    inputs = [
        torch.randn(s, dtype=torch.float64, requires_grad=True) for s in ((2, 3, 2), (2, 3), (2, 3))
    ]
    assert torch.autograd.gradcheck(film, inputs)
