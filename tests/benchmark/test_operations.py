from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence
from torch.utils.flop_counter import FlopCounterMode

from filmvqa.benchmark.operations import rnn_gradient_operations, rnn_operations


@pytest.mark.parametrize("rnn_type", [nn.GRU, nn.LSTM])
def test_a_recurrent_networks_operations_are_those_of_its_products(rnn_type: type) -> None:
    """torch counts them where it runs the network as separate products, on a CPU."""
    rnn, words = rnn_type(50, 70).double(), torch.randn(60, 50, requires_grad=True).double()
    batch_sizes = torch.tensor([6] * 10)
    with FlopCounterMode(display=False) as forward:
        states = rnn(PackedSequence(words, batch_sizes))[0].data
    with FlopCounterMode(display=False) as backward:
        states.sum().backward()
    weights = [weight.shape for weight in rnn.parameters()]
    assert rnn_operations(words.shape, weights) == forward.get_total_flops()
    # No gradient is needed of the first states, which are zero.
    counted = backward.get_total_flops()
    assert 0.9 * rnn_gradient_operations(words.shape, weights) < counted
    assert counted <= rnn_gradient_operations(words.shape, weights)
