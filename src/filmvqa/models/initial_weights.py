"""How the weights and biases of linear and convolution layers begin."""

from __future__ import annotations

from typing import Literal

from torch import nn

#: How biases begin: 0, or by torch's default.
InitialBiases = Literal["zero", "uniform"]
#: How weights begin: by Kaiming's uniform distribution, or by torch's default.
InitialWeights = Literal["kaiming", "small"]


def initialize(network: nn.Module, weights: InitialWeights, biases: InitialBiases) -> None:
    """Initialise the layers of a network, whose weights are now those of torch's default; Kaiming's
    as the original code does (``init_modules`` in vr/models/layers.py)."""
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            if weights == "kaiming":
                nn.init.kaiming_uniform_(module.weight)
            if biases == "zero" and module.bias is not None:
                nn.init.zeros_(module.bias)
