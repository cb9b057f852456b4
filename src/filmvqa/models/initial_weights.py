"""Initial weights and biases of linear and convolution layers."""

from __future__ import annotations

from typing import Literal

from torch import nn

#: Initial biases: 0, or torch's default.
InitialBiases = Literal["zero", "uniform"]
#: Initial weights: Kaiming's uniform distribution, or torch's default.
InitialWeights = Literal["kaiming", "small"]


def initialize(network: nn.Module, weights: InitialWeights, biases: InitialBiases) -> None:
    """Initialise the layers of a new network, which has torch's default weights.

    Kaiming's are as in the original code (``init_modules`` in vr/models/layers.py).
    """
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            if weights == "kaiming":
                nn.init.kaiming_uniform_(module.weight)
            if biases == "zero" and module.bias is not None:
                nn.init.zeros_(module.bias)
