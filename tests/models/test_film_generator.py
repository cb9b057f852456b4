from __future__ import annotations

import math
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from filmvqa.models.film_generator import Beta, Decoder, FilmGenerator, Gamma
from filmvqa.models.place_sets import PlaceSets
from filmvqa.models.word_attention import SLOPE

FUNCTIONS = {"linear": lambda x: x, "sigmoid": torch.sigmoid, "tanh": torch.tanh, "exp": torch.exp}


@pytest.mark.parametrize("decoder", get_args(Decoder)[:-1])  # without none
@pytest.mark.parametrize("gamma", get_args(Gamma))
@pytest.mark.parametrize("beta", get_args(Beta))
def test_shapes_and_what_is_fixed(decoder: str, gamma: str, beta: str) -> None:
    generator = FilmGenerator(6, 3, 4, decoder=decoder, gamma=gamma, beta=beta, extra_dim=2)
    modulation = generator(torch.randn(5, 6))
    assert modulation.gamma.shape == modulation.beta.shape == (5, 3, 4)
    assert modulation.extra.shape == (5, 3, 2)
    assert torch.equal(modulation.gamma, torch.ones(5, 3, 4)) == (gamma == "one")
    assert torch.equal(modulation.beta, torch.zeros(5, 3, 4)) == (beta == "zero")
    layer = modulation.layer(1)
    assert torch.equal(layer.gamma, modulation.gamma[:, 1])


@given(st.sampled_from(sorted(FUNCTIONS)), st.floats(-2, 2), st.integers(0, 99))
def test_gamma_is_its_function_of_the_decoded(name: str, baseline: float, seed: int) -> None:
    torch.manual_seed(seed)
    generator = FilmGenerator(6, 2, 3, gamma=name, gamma_baseline=baseline, multipliers=0.7)
    encoding = torch.randn(4, 6)
    decoded = generator.decoder(encoding).view(4, 2, 6)
    modulation = generator(encoding)
    expected = baseline + 0.7 * FUNCTIONS[name](decoded[:, :, :3])
    assert torch.allclose(modulation.gamma, expected, atol=1e-6)
    assert torch.allclose(modulation.beta, 0.7 * decoded[:, :, 3:], atol=1e-6)


def test_gamma_and_beta_are_deviations_from_one_and_zero() -> None:
    generator = FilmGenerator(6, 2, 3)
    nn.init.zeros_(generator.decoder[0].weight)
    nn.init.zeros_(generator.decoder[0].bias)
    modulation = generator(torch.randn(4, 6))
    assert torch.equal(modulation.gamma, torch.ones(4, 2, 3))
    assert torch.equal(modulation.beta, torch.zeros(4, 2, 3))
    assert generator.penalty(modulation) == 0
    generator.decoder[0].bias.data.copy_(torch.tensor([0.5] * 3 + [2.0] * 3).repeat(2))
    assert generator.penalty(generator(torch.randn(4, 6))).item() == pytest.approx(0.25 + 4.0)


def test_with_multipliers_they_are_what_is_penalised() -> None:
    generator = FilmGenerator(6, 2, 3, multipliers=0.5)
    penalty = generator.penalty(generator(torch.randn(4, 6)))
    assert penalty.item() == pytest.approx(0.25 + 0.25)
    penalty.backward()
    assert generator.multipliers.grad.abs().min() > 0
    assert generator.decoder[0].weight.grad is None
    assert torch.equal(FilmGenerator(6, 2, 3, multipliers=1).multipliers, torch.ones(2, 2, 3))


def test_decoders_have_the_depth_and_width_asked_for() -> None:
    deep = FilmGenerator(6, 2, 3, decoder="mlp", hidden_dims=[7, 8, 9])
    assert [m.out_features for m in deep.decoder if isinstance(m, nn.Linear)] == [7, 8, 9, 12]
    assert FilmGenerator(6, 2, 3, decoder="mlp").decoder[0].out_features == 6
    gru = FilmGenerator(6, 2, 3, decoder="gru", hidden_dims=[5, 5])
    assert (gru.decoder.rnn.hidden_size, gru.decoder.rnn.num_layers) == (5, 2)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_recurrent_decoders_are_unrolled_over_the_layers(cell: str) -> None:
    generator = FilmGenerator(6, 4, 3, decoder=cell, hidden_dims=[5])
    encoding = torch.randn(2, 6)
    state, expected = None, []
    for _ in range(4):
        out, state = generator.decoder.rnn(encoding[:, None], state)
        expected.append(generator.decoder.linear(out[:, 0]))
    assert torch.allclose(generator(encoding).beta, torch.stack(expected, 1)[:, :, 3:], atol=1e-6)


def test_a_task_offset_starts_at_nothing_and_moves_all_questions_alike() -> None:
    torch.manual_seed(0)
    plain = FilmGenerator(6, 2, 3)
    torch.manual_seed(0)
    offset = FilmGenerator(6, 2, 3, task_offset=True)
    encoding = torch.randn(4, 6)
    assert torch.equal(plain(encoding).gamma, offset(encoding).gamma)
    offset.task_offset.data[1, 0] = 3.0
    moved = offset(encoding).gamma - plain(encoding).gamma
    assert torch.allclose(moved[:, 1, 0], torch.full((4,), 3.0))
    assert moved.count_nonzero() == 4


def attended(query: Tensor, words: Tensor, slope: Tensor | float = 0.0) -> Tensor:
    """The mean of words (T, D) by attention, whose scores rise with the position from -1 to 1."""
    positions = torch.tensor([-1 + 2 * t / len(words) for t in range(len(words))])
    scores = words @ query / math.sqrt(words.shape[1])
    return torch.softmax(scores + slope * positions, 0) @ words


@pytest.mark.parametrize("decoder", ["linear", "none"])
def test_each_layer_attends_to_the_words_that_are_no_padding(decoder: str) -> None:
    torch.manual_seed(0)
    generator = FilmGenerator(6, 2, 3, word_attention=True, decoder=decoder)
    encoding, words = torch.randn(2, 6), torch.randn(2, 5, 6)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    modulation = generator(encoding, words, padding)
    out = torch.cat([modulation.gamma - 1, modulation.beta], 2)  # (B, L, 2C)
    attention = generator.word_attention
    for n, length in enumerate((5, 3)):
        for layer in range(2):
            query = attention.query(encoding[n])[6 * layer : 6 * layer + 6]
            read = attention.decoders[layer](attended(query, words[n, :length]))
            plain = 0 if decoder == "none" else generator.decoder(encoding[n]).view(2, 6)[layer]
            assert torch.allclose(out[n, layer], plain + read, atol=1e-5)
    generator.begin_at_zero()
    assert (generator(encoding, words, padding).gamma == 1).all()


def test_each_part_of_a_layer_attends_to_words_of_its_own() -> None:
    torch.manual_seed(0)
    dim, layers, channels, sets = 6, 2, 3, 2
    generator = FilmGenerator(
        dim, layers, channels, 1, channels, sets, word_attention="parts", decoder="none"
    )
    encoding, words = torch.randn(2, dim), torch.randn(2, 5, dim)
    padding = torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    out = generator(encoding, words, padding)
    attention = generator.word_attention
    parts = 2 + sets  # γ, β and extra; the read's key; the sets'
    queries = attention.query(encoding).view(2, layers, parts, dim)
    for n, length in enumerate((5, 3)):
        for layer in range(layers):
            decoded = [
                attention.decoders[i](attended(query, words[n, :length], attention.slopes[i]))
                for i, query in enumerate(queries[n, layer], layer * parts)
            ]
            gamma, beta, extra = decoded[0].split([channels, channels, 1])
            assert torch.allclose(out.gamma[n, layer], 1 + gamma, atol=1e-5)
            assert torch.allclose(out.beta[n, layer], beta, atol=1e-5)
            assert torch.allclose(out.extra[n, layer], extra, atol=1e-5)
            of_sets = [p[:-1] for p in decoded[2:]] + [p[-1:] for p in decoded[2:]]
            expected = torch.cat([decoded[1], *of_sets])
            assert torch.allclose(out.key[n, layer], expected, atol=1e-5)
            places_of_sets = PlaceSets(channels, sets).split(
                out.key[n : n + 1, layer, channels:], 3
            )
            assert torch.allclose(places_of_sets[1][0], torch.stack([p[-1] for p in decoded[2:]]))
    assert set(attention.slopes.tolist()) == {-SLOPE, SLOPE}
    generator.begin_at_zero()
    assert (generator(encoding, words, padding).gamma == 1).all()
