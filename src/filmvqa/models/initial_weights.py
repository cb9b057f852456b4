"""How the weights and biases of linear and convolution layers begin."""

from __future__ import annotations

from torch import nn

from filmvqa.models.options import check_choice

#: How biases begin: 0, or by torch's default.
INITIAL_BIASES = ("zero", "uniform")
#: How weights begin: by Kaiming's uniform distribution, or by torch's default.
INITIAL_WEIGHTS = ("kaiming", "small")


def check_initial(weights: str, biases: str) -> None:
    """Raise ``OptionError`` for a way to begin that is none of the choices."""
    check_choice("initial_biases", biases, INITIAL_BIASES)
    check_choice("initial_weights", weights, INITIAL_WEIGHTS)


def initialize(network: nn.Module, weights: str, biases: str) -> None:
    """Initialise the layers of a network, whose weights are now those of torch's default; Kaiming's
    as the original code does (``init_modules`` in vr/models/layers.py)."""
    if weights == "kaiming":
        network.apply(_initialize)
    if biases == "zero":
        network.apply(_initialize_biases)


def _initialize(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d):
        nn.init.kaiming_uniform_(module.weight)


def _initialize_biases(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Conv2d) and module.bias is not None:
        nn.init.zeros_(module.bias)
