"""Question encoders: token indices to one vector."""

from __future__ import annotations

import torch
from torch import Tensor, nn

_CELLS = {"gru": nn.GRU, "lstm": nn.LSTM}


class QuestionEncoder(nn.Module):
    """Word embeddings and a recurrent network, read at the question's true end (section 3).

    Index 0 pads; the state after the last token that is not padding is the encoding, so that
    padding never changes it. ``orthogonal`` starts the recurrent weights so that early words
    are remembered; torch's own start is the paper's.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        embedding_dim: int = 200,
        hidden_dim: int = 4096,
        num_layers: int = 1,
        cell: str = "gru",
        dropout: float = 0.0,
        orthogonal: bool = False,
    ) -> None:
        super().__init__()
        if cell not in _CELLS:
            raise ValueError(f"cell={cell!r}; choose from {', '.join(_CELLS)}")
        self.output_dim = hidden_dim
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        self.rnn = _CELLS[cell](
            embedding_dim, hidden_dim, num_layers, batch_first=True, dropout=dropout
        )
        if orthogonal:
            self._remember(hidden_dim)

    def _remember(self, hidden_dim: int) -> None:
        """Orthogonal recurrent weights and, in the gate that keeps the state, a bias of 1, so
        that early words reach the end from the first step on (Jozefowicz et al. 2015)."""
        for name, value in self.rnn.named_parameters():
            if name.startswith("weight"):
                fill = nn.init.orthogonal_ if "hh" in name else nn.init.xavier_uniform_
                for gate in value.data.split(hidden_dim):
                    fill(gate)
            else:
                nn.init.zeros_(value)
                if "ih" in name:  # second in torch's order: GRU's update, LSTM's forget gate
                    nn.init.ones_(value.data[hidden_dim : 2 * hidden_dim])

    def forward(self, questions: Tensor) -> Tensor:
        """(B, T) indices, padded with 0 at the end, to (B, hidden_dim)."""
        last = (questions != 0).sum(1).clamp(min=1) - 1  # (B,)
        states, _ = self.rnn(self.embedding(questions))  # (B, T, hidden_dim)
        out: Tensor = states[torch.arange(len(questions), device=questions.device), last]
        return out
