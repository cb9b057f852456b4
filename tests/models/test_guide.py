"""The guide of Rupprecht et al. against their equation in loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.film import film
from filmvqa.models.blocks import FilmedResBlock
from filmvqa.models.conditioning import Guide
from filmvqa.models.protocols import Modulation
from filmvqa.system.errors import OptionError
from tests.models.small_models import questions, small


@given(
    batch=st.integers(1, 3), channels=st.integers(1, 4), height=st.integers(1, 5),
    width=st.integers(1, 5), seed=st.integers(0, 1000), channels_last=st.booleans(),
)  # fmt: skip
def test_the_guide_is_the_papers_equation(
    batch: int, channels: int, height: int, width: int, seed: int, channels_last: bool
) -> None:
    generator = np.random.default_rng(seed)
    a = generator.normal(size=(batch, channels, height, width))
    alpha, beta, gamma_s, gamma_b = (
        generator.normal(size=(batch, n)) for n in (height, width, channels, channels)
    )
    layer = Guide(channels, (height, width))
    assert layer.extra_dim + 2 * channels == (channels + height + width) + channels
    extra = torch.from_numpy(np.concatenate([alpha, beta], 1))
    modulation = Modulation(
        torch.from_numpy(1 + gamma_s), torch.from_numpy(gamma_b), extra, extra[:, :0]
    )
    x = torch.from_numpy(a)
    if channels_last:
        x = x.contiguous(memory_format=torch.channels_last)
    # A'_{h,w,c} = (1 + α_h + β_w + γ^(s)_c) A_{h,w,c} + γ^(b)_c
    expected = np.empty_like(a)
    for n, c, h, w in np.ndindex(*a.shape):
        factor = 1 + alpha[n, h] + beta[n, w] + gamma_s[n, c]
        expected[n, c, h, w] = factor * a[n, c, h, w] + gamma_b[n, c]
    np.testing.assert_allclose(layer(x, modulation).numpy(), expected, rtol=1e-12, atol=1e-12)
    still = modulation._replace(extra=torch.zeros_like(extra))
    assert torch.equal(layer(x, still), film(x, still.gamma, still.beta))


def test_a_networks_guide_has_the_size_of_its_maps() -> None:
    options = {"block": {"conditioning": "guide"}, "stem": {"strides": [2]}}
    model = small("film", feature_shape=[6, 5, 9], **options).eval()
    assert model.film_generator.extra_dim == 3 + 5
    assert torch.isfinite(model(torch.randn(2, 6, 5, 9), questions([4, 6]))).all()
    with pytest.raises(ValueError, match=r"maps of \(2, 3\): the guide is for \(3, 5\)"):
        model(torch.randn(2, 6, 4, 6), questions([4, 6]))


def test_a_guide_needs_the_size_of_the_maps() -> None:
    with pytest.raises(OptionError, match="needs the size of the maps"):
        FilmedResBlock(4, conditioning="guide")
