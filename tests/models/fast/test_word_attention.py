"""Attention to words by kernels against torch's functions in double precision."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from filmvqa.models.fast import word_attention
from filmvqa.models.word_attention import WordAttention
from tests.models.fast.accelerated import accelerated, threads

ATTENTION = accelerated(WordAttention(4, 2, [3]))


def attend(queries: Tensor, words: Tensor, padding: Tensor) -> Tensor:
    return ATTENTION.attend(queries, words, padding)


@given(
    lengths=st.lists(st.integers(1, 7), min_size=1, max_size=5),
    num_queries=st.integers(1, 4),
    width=st.integers(1, 20),
    num_threads=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 1000),
)
def test_outputs_and_gradients_are_those_of_torchs_functions(
    lengths: list[int], num_queries: int, width: int, num_threads: int, seed: int
) -> None:
    torch.manual_seed(seed)
    padding = torch.arange(max(lengths)) >= torch.tensor(lengths)[:, None]
    attention = accelerated(WordAttention(width, 1, [1] * num_queries))
    reference = WordAttention(width, 1, [1] * num_queries).double()
    reference.load_state_dict(attention.state_dict())
    inputs = [
        torch.randn(len(lengths), count, width, requires_grad=True)
        for count in (num_queries, max(lengths))
    ]
    exact = [t.detach().double().requires_grad_() for t in inputs]
    with threads(num_threads):
        out = attention.attend(*inputs, padding)
        grad = torch.randn_like(out)
        out.backward(grad)
    expected = reference.attend(*exact, padding)
    expected.backward(grad.double())
    assert torch.allclose(out.double(), expected, rtol=1e-5, atol=1e-5)
    if num_queries > 1:
        inputs.append(attention.slopes)
        exact.append(reference.slopes)
    for a, b in zip(inputs, exact, strict=True):
        assert torch.allclose(a.grad.double(), b.grad, rtol=1e-4, atol=1e-4)
    assert not inputs[1].grad[padding].any()


def test_it_runs_in_float32_without_autocast(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError

    queries, words = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    padding = torch.zeros(2, 5, dtype=torch.bool)
    monkeypatch.setattr(word_attention, "over_questions", refuse)
    with pytest.raises(AssertionError):
        attend(queries, words, padding)
    attend(queries.double(), words.double(), padding)
    with torch.autocast("cpu", torch.bfloat16):
        assert attend(queries, words, padding).dtype == torch.bfloat16


def test_what_is_not_a_number_is_not_hidden() -> None:
    queries, words = torch.randn(2, 3, 4), torch.randn(2, 5, 4)
    words[1, 2, 0] = torch.nan
    out = attend(queries, words, torch.zeros(2, 5, dtype=torch.bool))
    assert out[1].isnan().all()
    assert out[0].isfinite().all()
