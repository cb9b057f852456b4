"""Question encoders: token indices to one vector, and to one vector a word."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CELLS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


class QuestionEncoder(nn.Module):
    """Word embeddings and a recurrent network, read at the question's true end (section 3).

    Index 0 pads; padding never changes the encoding. With ``bidirectional`` each direction has
    half of ``hidden_dim``, and the encoding is both directions' last states.

    Parameters
    ----------
    padded_length
        Let the backward direction begin in the padding, and take its state at the question's
        last token: what the original FiLM code does, for its checkpoints only. Questions are
        padded to that length before; 0: as they come.
    embedding_dropout, layer_dropout, dropout
        On the words, between layers, and on the encoding.
    orthogonal
        Start the recurrent weights so that early words are remembered; torch's own start is the
        paper's.
    """

    def __init__(
        self,
        vocab_size: int,
        *,
        embedding_dim: int = 200,
        hidden_dim: int = 4096,
        num_layers: int = 1,
        cell: str = "gru",
        bidirectional: bool = False,
        padded_length: int | None = None,
        embedding_dropout: float = 0.0,
        layer_dropout: float = 0.0,
        dropout: float = 0.0,
        orthogonal: bool = False,
    ) -> None:
        super().__init__()
        if cell not in CELLS:
            raise ValueError(f"cell={cell!r}; choose from {', '.join(CELLS)}")
        if bidirectional and hidden_dim % 2:
            raise ValueError(f"hidden_dim={hidden_dim} of two directions must be even")
        self.output_dim = hidden_dim
        self.padded_length = padded_length
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        directions = 2 if bidirectional else 1
        width = hidden_dim // directions
        self.bidirectional = bidirectional
        self.layers = nn.ModuleList(
            nn.ModuleList(
                CELLS[cell](hidden_dim if i else embedding_dim, width, batch_first=True)
                for _ in range(directions)
            )
            for i in range(num_layers)
        )
        self.embedding_dropout = nn.Dropout(embedding_dropout)
        self.layer_dropout = nn.Dropout(layer_dropout)
        self.dropout = nn.Dropout(dropout)
        if orthogonal:
            self._remember(width)

    def _remember(self, width: int) -> None:
        """Orthogonal recurrent weights and, in the gate that keeps the state, a bias of 1, so
        that early words reach the end from the first step on (Jozefowicz et al. 2015)."""
        for name, value in self.layers.named_parameters():
            if "weight" in name:
                fill = nn.init.orthogonal_ if "hh" in name else nn.init.xavier_uniform_
                for gate in value.data.chunk(len(value) // width):
                    fill(gate)
            else:
                nn.init.zeros_(value)
                if "ih" in name:  # second in torch's order: GRU's update, LSTM's forget gate
                    nn.init.ones_(value.data[width : 2 * width])

    def forward(self, questions: Tensor) -> Tensor:
        """(B, T) indices, padded with 0 at the end, to (B, hidden_dim)."""
        return self.read(questions)[1]

    def read(self, questions: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) to a state a word (B, T, hidden_dim) and the encoding (B, hidden_dim).

        States at padding mean nothing.
        """
        missing = (self.padded_length or 0) - questions.shape[1]
        if missing > 0:
            questions = F.pad(questions, (0, missing))
        lengths = (questions != 0).sum(1).clamp(min=1)  # (B,)
        rows = torch.arange(len(questions), device=questions.device)
        mirrored = (
            self._mirrored(questions, lengths) if self.bidirectional else questions
        )  # not read
        states = self.embedding_dropout(self.embedding(questions))  # (B, T, embedding_dim)
        for i, directions in enumerate(self.layers):
            if i:
                states = self.layer_dropout(states)
            forward, *backward = directions.children()
            read: Tensor = forward(states)[0]
            for rnn in backward:
                there = rnn(states.gather(1, mirrored.expand_as(states)))[0]
                read = torch.cat([read, there.gather(1, mirrored.expand_as(there))], 2)
            states = read  # (B, T, hidden_dim)
        encoding = states[rows, lengths - 1]
        if self.bidirectional and self.padded_length is None:
            half = self.output_dim // 2
            encoding = torch.cat([encoding[:, :half], states[:, 0, half:]], 1)
        return states, self.dropout(encoding)

    def _mirrored(self, questions: Tensor, lengths: Tensor) -> Tensor:
        """Places (B, T, 1) of each question from its end to its beginning, padding where it is;
        with ``padded_length``, from the end of the padding."""
        places = torch.arange(questions.shape[1], device=questions.device).expand_as(questions)
        if self.padded_length is not None:
            return places.flip(1)[:, :, None]
        backward = lengths[:, None] - 1 - places
        return backward.where(backward >= 0, places)[:, :, None]
