"""From a question's encoding to γ and β for every FiLM layer."""

from __future__ import annotations

from torch import Tensor, nn


class LinearFilmGenerator(nn.Module):
    """One linear layer to γ and β of all blocks (section 3; the retrospective found it enough).

    γ comes as a deviation from ``gamma_baseline`` and β as one from 0.
    """

    def __init__(
        self, input_dim: int, num_blocks: int, channels: int, *, gamma_baseline: float = 1.0
    ) -> None:
        super().__init__()
        self.num_blocks, self.channels = num_blocks, channels
        self.gamma_baseline = gamma_baseline
        self.linear = nn.Linear(input_dim, num_blocks * 2 * channels)

    def forward(self, encoding: Tensor) -> tuple[Tensor, Tensor]:
        """(B, input_dim) to γ and β, each (B, num_blocks, channels)."""
        deltas = self.linear(encoding).view(-1, self.num_blocks, 2, self.channels)
        gamma, beta = deltas.unbind(2)
        return self.gamma_baseline + gamma, beta
