"""The recurrence over a prefix tree against torch's own networks over packed batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from filmvqa.models.encoder import QuestionEncoder
from filmvqa.models.fast.prefix_tree import prefix_tree
from filmvqa.models.fast.recurrence import run_recurrence, shares_prefixes
from tests.models.fast.accelerated import accelerated

questions_of = st.lists(
    st.lists(st.integers(1, 3), min_size=1, max_size=6), min_size=1, max_size=12
).map(lambda rows: [torch.tensor(row) for row in rows])


def padded(rows: list[Tensor], more: int = 0) -> tuple[Tensor, Tensor]:
    questions = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    return nn.functional.pad(questions, (0, more)), torch.tensor([len(row) for row in rows])


@given(rows=questions_of, more=st.integers(0, 2))
def test_a_tree_has_each_distinct_prefix_once(rows: list[Tensor], more: int) -> None:
    questions, lengths = padded(rows, more)
    tree = prefix_tree(questions, lengths)
    prefixes = {tuple(row[: t + 1].tolist()) for row in rows for t in range(len(row))}
    assert tree.sizes == [n for t in range(1, 7) if (n := sum(len(p) == t for p in prefixes))]
    starts = np.concatenate([[0], np.cumsum(tree.sizes)])
    words = questions.flatten()[tree.words]

    def spell(node: int) -> tuple[int, ...]:
        level = int(np.searchsorted(starts, node, side="right")) - 1
        before = spell(int(starts[level - 1] + tree.parents[node])) if level else ()
        return (*before, int(words[node]))

    assert {spell(node) for node in range(len(words))} == prefixes
    for row, nodes in zip(rows, tree.nodes.tolist(), strict=True):
        for t, node in enumerate(nodes):
            assert spell(node) == tuple(row[: t + 1].tolist())  # at padding: the whole question


@given(rows=questions_of)
def test_without_sharing_a_tree_is_a_packed_batch(rows: list[Tensor]) -> None:
    questions, lengths = padded(rows)
    tree = prefix_tree(questions, lengths, share=False)
    packed = pack_padded_sequence(questions, lengths, batch_first=True, enforce_sorted=False)
    assert tree.sizes == packed.batch_sizes.tolist()
    assert torch.equal(questions.flatten()[tree.words], packed.data)


@pytest.mark.parametrize("rnn_type", [nn.GRU, nn.LSTM])
@pytest.mark.parametrize("share", [True, False])
@pytest.mark.parametrize("distinct", [True, False])
@pytest.mark.parametrize("levels", [True, False])
@given(rows=questions_of, seed=st.integers(0, 9))
def test_states_and_gradients_are_torchs(
    rnn_type: type, share: bool, distinct: bool, levels: bool, rows: list[Tensor], seed: int
) -> None:
    """Level by level, and as on a GPU."""
    torch.manual_seed(seed)
    questions, lengths = padded(rows)
    embedding, rnn = nn.Embedding(4, 5).double(), rnn_type(5, 3, batch_first=True).double()
    packed = pack_padded_sequence(
        embedding(questions), lengths, batch_first=True, enforce_sorted=False
    )
    expected, _ = pad_packed_sequence(rnn(packed)[0], batch_first=True)
    tree = prefix_tree(questions, lengths, share=share)
    words = questions.flatten()[tree.words]
    tokens, input_index = torch.unique(words, return_inverse=True) if distinct else (words, None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("filmvqa.models.fast.recurrence.shares_prefixes", lambda device: levels)
        states = run_recurrence(rnn, embedding(tokens), tree, input_index)[tree.nodes]
    is_word = (questions != 0)[:, :, None]
    weights = torch.randn_like(expected) * is_word
    assert torch.allclose(states * is_word, expected * is_word, rtol=0, atol=1e-14)
    learned = [*embedding.parameters(), *rnn.parameters()]
    gradients = (torch.autograd.grad((x * weights).sum(), learned) for x in (states, expected))
    for a, b in zip(*gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("rnn_type", [nn.GRU, nn.LSTM])
def test_bfloat16_products_are_rounded_a_little(rnn_type: type) -> None:
    torch.manual_seed(0)
    questions, lengths = padded([torch.randint(1, 9, (n,)) for n in (3, 20, 11, 20, 1)])
    embedding, rnn = nn.Embedding(9, 16), rnn_type(16, 64, batch_first=True)
    tree = prefix_tree(questions, lengths)
    inputs = embedding(questions.flatten()[tree.words])
    exact = run_recurrence(rnn, inputs, tree)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = run_recurrence(rnn, inputs, tree)
    assert rounded.dtype == torch.float32
    assert 0 < (rounded - exact).abs().max() < 0.02
    names = ["weight_hh_l0", "weight_ih_l0", "bias_hh_l0"]
    learned = [rnn.get_parameter(name) for name in names]
    a, b = (torch.autograd.grad(x.square().sum(), learned) for x in (exact, rounded))
    for x, y in zip(a, b, strict=True):
        assert (x - y).norm() < 0.02 * x.norm()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("rnn_type", [nn.GRU, nn.LSTM])
def test_a_gpus_states_and_gradients_are_the_cpus(rnn_type: type, training: bool) -> None:
    """In evaluation mode, cuDNN has no gradients."""
    torch.manual_seed(0)
    questions, lengths = padded([torch.randint(1, 9, (n,)) for n in (3, 20, 11, 20, 1)])
    embedding, rnn = nn.Embedding(9, 16).double(), rnn_type(16, 64, batch_first=True).double()
    results = []
    for device in (torch.device("cpu"), torch.device("cuda")):
        tree = prefix_tree(questions, lengths, share=shares_prefixes(device)).to(device)
        embedding, rnn = embedding.to(device), rnn.to(device).train(training)
        words = questions.to(device).flatten()[tree.words]
        tokens, input_index = torch.unique(words, return_inverse=True)
        states = run_recurrence(rnn, embedding(tokens), tree, input_index)[tree.nodes]
        gradients = torch.autograd.grad(states.sin().sum(), [*rnn.parameters(), embedding.weight])
        results.append([x.cpu() for x in (states, *gradients)])
    for a, b in zip(*results, strict=True):
        assert torch.allclose(a, b, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"num_layers": 2},
        {"cell": "lstm", "num_layers": 2, "bidirectional": True},
        {"cell": "lstm", "bidirectional": True},
    ],
    ids=str,
)
def test_sharing_does_not_change_results(options: dict, monkeypatch) -> None:
    torch.manual_seed(0)
    encoder = accelerated(QuestionEncoder(6, embedding_dim=4, hidden_dim=8, **options)).double()
    questions, _ = padded([torch.randint(1, 6, (n,)) for n in (1, 2, 3, 7, 7, 7, 2, 2)])
    states, shared = encoder.encode_words(questions)
    separate = [encoder(question[None, : int((question != 0).sum())]) for question in questions]
    assert torch.allclose(shared, torch.cat(separate), rtol=0, atol=1e-14)
    assert torch.allclose(encoder(questions), shared, rtol=0, atol=0)
    assert states.shape == (8, 7, 8)


def test_dropout_separates_equal_prefixes() -> None:
    torch.manual_seed(0)
    encoder = accelerated(QuestionEncoder(6, embedding_dim=64, hidden_dim=8, embedding_dropout=0.5))
    questions = torch.tensor([[1, 2, 3], [1, 2, 3]])
    a, b = encoder(questions)
    assert not torch.equal(a, b)
    a, b = encoder.eval()(questions)
    assert torch.equal(a, b)
