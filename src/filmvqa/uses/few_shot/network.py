"""The small network whose γ and β are adapted to a concept."""

from __future__ import annotations

from torch import Tensor, nn

from filmvqa.film import film

#: Number of FiLM layers.
LAYERS = 2


class ConceptNetwork(nn.Module):
    """Predicts whether each picture of an episode has an X.

    It has 1×1 convolutions with FiLM, a global max pool, and a linear layer. All pictures of an
    episode share γ and β. There is no batch norm, which would leak information between pictures.

    Parameters
    ----------
    channels, width
        Number of the backbone's features, and of the network's.
    """

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.width = width
        self.stem = nn.Linear(channels, width)
        self.layers = nn.ModuleList(nn.Linear(width, width) for _ in range(LAYERS))
        self.head = nn.Linear(width, 1)

    def unmodulated(self) -> dict[str, Tensor]:
        """γ = 1 and β = 0, each (2, W), as ``forward`` takes them."""
        shape = (LAYERS, self.width)
        weight = self.head.weight
        return {"gamma": weight.new_ones(shape), "beta": weight.new_zeros(shape)}

    def forward(self, features: Tensor, gamma: Tensor, beta: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (N,) and embeddings (N, W) of features (N, P, C) of P places."""
        x = self.stem(features).relu()  # (N, P, W)
        pictures, places, width = x.shape
        x = x.reshape(1, pictures * places, width)
        for layer, g, b in zip(self.layers, gamma, beta, strict=True):
            y = film(layer(x).transpose(1, 2), g[None], b[None])  # (1, W, N * P)
            x = x + y.transpose(1, 2).relu()
        embeddings = x.reshape(pictures, places, width).amax(1)  # (N, W)
        return self.head(embeddings)[:, 0], embeddings
