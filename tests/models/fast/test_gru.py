"""The kernels of the GRU's gates; ``test_recurrence`` compares the whole with torch's GRU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from filmvqa.models.encoder import QuestionEncoder
from filmvqa.models.fast import recurrence
from filmvqa.models.fast.gru import gates_forward
from tests.models.fast.accelerated import accelerated
from tests.models.small_models import questions


def gates_of(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """σ and tanh from the kernel: the gate r, and the gate n with hidden products of 0."""
    rows, one = len(values), np.ones((len(values), 1), np.float32)
    inputs = np.zeros((rows, 3), np.float32)
    hidden = np.zeros((rows, 3), np.float32)
    inputs[:, 0] = inputs[:, 2] = values
    gates, states = np.empty((rows, 4), np.float32), np.empty((rows, 1), np.float32)
    gates_forward(inputs, np.arange(rows), hidden, one, gates, states)
    return gates[:, 0], gates[:, 2]


def test_sigmoid_and_tanh() -> None:
    values = np.linspace(-30, 30, 200_001).astype(np.float32)
    sigmoid, tanh = gates_of(values)
    exact = values.astype(np.float64)
    assert np.abs(sigmoid - 1 / (1 + np.exp(-exact))).max() < 3e-7
    assert np.abs(tanh - np.tanh(exact)).max() < 4e-7
    tiny = np.float32([1e-12, -1e-20, 0.0])
    assert gates_of(tiny)[1] == pytest.approx(tiny, rel=1e-6)


def test_what_is_not_a_number_is_not_hidden() -> None:
    sigmoid, tanh = gates_of(np.float32([np.nan, np.inf, -np.inf]))
    assert np.isnan([sigmoid[0], tanh[0]]).all()
    assert sigmoid[1:].tolist() == pytest.approx([1, 0], abs=1e-3)
    assert tanh[1:].tolist() == pytest.approx([1, -1], abs=1e-6)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_with_and_without_kernels(bidirectional: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    encoder = accelerated(
        QuestionEncoder(20, embedding_dim=8, hidden_dim=16, bidirectional=bidirectional)
    )
    rows = questions([9, 1, 5, 12, 5])
    weights = torch.randn(5, 16)
    outputs, gradients = [], []
    for fused in (True, False):
        monkeypatch.setattr(recurrence, "_is_fused", lambda *_, fused=fused: fused)
        encoder.zero_grad()
        out = encoder(rows)
        (out * weights).sum().backward()
        outputs.append(out.detach())
        gradients.append([p.grad.clone() for p in encoder.parameters()])
        with torch.no_grad():
            assert torch.allclose(encoder(rows), out, atol=1e-6)
    assert torch.allclose(*outputs, atol=2e-6)
    for one, other in zip(*gradients, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5)


def test_it_is_for_float32_on_a_cpu() -> None:
    x = torch.zeros(1)
    assert recurrence._is_fused(x, torch.float32)
    assert not recurrence._is_fused(x, torch.bfloat16)
    assert not recurrence._is_fused(x.double(), torch.float64)
    assert not recurrence._is_fused(nn.Parameter(x).to("meta"), torch.float32)
