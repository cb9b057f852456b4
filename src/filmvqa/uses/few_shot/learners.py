"""Ways to learn a concept from ten pictures, as functions that ``vmap`` runs on many episodes.

CAVIA (Zintgraf et al. 2019) adapts only γ and β, MAML (Finn et al. 2017) all weights, ANIL (Raghu
et al. 2020) the last layer. Prototypes are from Snell et al. 2017. TADAM (Oreshkin et al. 2018)
predicts the network's γ and β from the shown pictures.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad
from torch.nn.functional import binary_cross_entropy_with_logits as cross_entropy

from filmvqa.uses.few_shot.network import LAYERS, ConceptNetwork

Tensors = dict[str, Tensor]


def step_down(
    loss: Callable[[Tensors], Tensor], fast: Tensors, rates: Tensors, steps: int
) -> Tensors:
    """Take gradient steps of ``loss`` on ``fast``, at a scalar rate for each tensor."""
    for _ in range(steps):
        slopes = grad(loss)(fast)
        fast = {name: value - rates[name] * slopes[name] for name, value in fast.items()}
    return fast


class Learner(nn.Module):
    """Answers episodes.

    ``forward`` takes the features (10, P, C) of the shown pictures, their labels (10,) as 0 and 1,
    and the features (Q, P, C) of the queried pictures, and returns logits (Q,). ``adapted`` is the
    number of values that it fits to an episode.
    """

    adapted: int

    def penalty(self) -> Tensor | float:
        """The term that training adds to the loss."""
        return 0.0


class InnerSteps(Learner):
    """Gradient steps on the shown pictures.

    They change ``fast``: ``film`` (γ and β, from 1 and 0), ``all`` weights, or the ``head``. Each
    tensor has a learned rate (Antoniou et al. 2019).
    """

    def __init__(self, network: ConceptNetwork, fast: str, *, steps: int, rate: float) -> None:
        super().__init__()
        self.network, self.fast, self.steps = network, fast, steps
        start = self._start()
        self.adapted = sum(value.numel() for value in start.values())
        # Names of parameters have no dots.
        self.log_rates = nn.ParameterDict(
            {n.replace(".", "/"): torch.tensor(rate).log() for n in start}
        )

    def _start(self) -> Tensors:
        if self.fast == "film":
            return self.network.unmodulated()
        weights = dict(self.network.named_parameters())
        return {n: w for n, w in weights.items() if self.fast == "all" or n.startswith("head.")}

    def forward(self, shown: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
        def logits(fast: Tensors, features: Tensor) -> Tensor:
            modulation = fast if self.fast == "film" else self.network.unmodulated()
            weights = {} if self.fast == "film" else fast
            answer: Tensor = functional_call(self.network, weights, (features,), modulation)[0]
            return answer

        start = self._start()
        rates = {name: self.log_rates[name.replace(".", "/")].exp() for name in start}
        fast = step_down(
            lambda f: cross_entropy(logits(f, shown), labels), start, rates, self.steps
        )
        return logits(fast, asked)


class Prototypes(Learner):
    """The nearer of two mean embeddings of the shown pictures.

    With a ``decoder``, as in TADAM, both means represent the task, and are decoded to
    γ = 1 + γ₀ Δγ and β = β₀ Δβ of a second pass.

    Parameters
    ----------
    decoder
        None, ``linear`` or ``mlp`` (one hidden layer).
    penalty
        The weight of the squares of the post-multipliers γ₀ and β₀.
    """

    def __init__(
        self, network: ConceptNetwork, decoder: str | None = None, *, penalty: float = 0.0
    ) -> None:
        super().__init__()
        self.network, self._penalty = network, penalty
        width = network.width
        self.adapted = 2 * width + (2 * LAYERS * width if decoder else 0)
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.decoder: nn.Module | None = None
        if decoder:
            outputs = 2 * LAYERS * width
            hidden = [nn.Linear(2 * width, 2 * width), nn.ReLU()] if decoder == "mlp" else []
            self.decoder = nn.Sequential(*hidden, nn.Linear(2 * width, outputs))
            self.multipliers = nn.Parameter(torch.zeros(2, LAYERS, width))

    def penalty(self) -> Tensor | float:
        return self._penalty * self.multipliers.square().sum() if self.decoder else 0.0

    def forward(self, shown: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
        modulation = self.network.unmodulated()
        prototypes = self._prototypes(shown, labels, modulation)  # (2, W)
        if self.decoder is not None:
            decoded = self.decoder(prototypes.reshape(-1)).view_as(self.multipliers)
            gamma, beta = self.multipliers * decoded
            modulation = {"gamma": 1 + gamma, "beta": beta}
            prototypes = self._prototypes(shown, labels, modulation)
        embeddings = self.network(asked, **modulation)[1]
        distances = (embeddings[:, None] - prototypes).square().mean(-1)  # (Q, 2)
        logits: Tensor = self.log_scale.exp() * (distances[:, 0] - distances[:, 1])
        return logits

    def _prototypes(self, shown: Tensor, labels: Tensor, modulation: Tensors) -> Tensor:
        """(2, W) the mean embeddings of the pictures without and with an X."""
        embeddings = self.network(shown, **modulation)[1]
        members = torch.stack([1 - labels, labels])  # (2, 10)
        means: Tensor = members @ embeddings / members.sum(1, keepdim=True)
        return means


class LogisticRegression(Learner):
    """Logistic regression on the maximum of each backbone feature over a picture.

    It is fitted by Newton's steps with an L2 penalty, and has no trained weights.
    """

    def __init__(self, channels: int, *, penalty: float = 0.03, steps: int = 12) -> None:
        super().__init__()
        self._penalty, self._steps, self.adapted = penalty, steps, channels + 1

    def forward(self, shown: Tensor, labels: Tensor, asked: Tensor) -> Tensor:
        x, queries = (_with_bias(features.amax(1)) for features in (shown, asked))
        ridge = x.new_full((x.shape[1],), self._penalty)
        ridge[-1] = 1e-3
        weights = x[0] * 0
        for _ in range(self._steps):
            p = (x @ weights).sigmoid()
            slope = x.T @ (p - labels) + ridge * weights
            curvature = (x.T * (p * (1 - p))) @ x + ridge.diag()
            weights = weights - torch.linalg.solve(curvature, slope)
        return queries @ weights


def _with_bias(x: Tensor) -> Tensor:
    return torch.cat([x, torch.ones_like(x[:, :1])], 1)


def _inner(fast: str, rate: float) -> Callable[[ConceptNetwork], Learner]:
    return lambda network: InnerSteps(network, fast, steps=5, rate=rate)


def _tadam(decoder: str | None, penalty: float = 0.0) -> Callable[[ConceptNetwork], Learner]:
    return lambda network: Prototypes(network, decoder, penalty=penalty)


#: Builds a learner from a network, by the learner's name in tables.
KINDS: dict[str, Callable[[ConceptNetwork], Learner]] = {
    "film": _inner("film", 1.0),
    "all_weights": _inner("all", 0.1),
    "last_layer": _inner("head", 1.0),
    "tadam_linear": _tadam("linear", 0.01),
    "tadam_linear_free": _tadam("linear"),
    "tadam_mlp": _tadam("mlp", 0.01),
    "tadam_mlp_free": _tadam("mlp"),
    "prototypes": _tadam(None),
    "logistic_regression": lambda network: LogisticRegression(network.stem.in_features),
}
