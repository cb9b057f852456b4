"""The question encoder: one vector for each question and one for each word."""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from filmvqa.settings.typed import Natural, Positive, Probability
from filmvqa.system.devices import to_device
from filmvqa.system.errors import OptionError

CELLS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


class QuestionEncoder(nn.Module):
    """Word embeddings and a recurrent network, whose last state is the encoding (section 3).

    Index 0 is padding and is not read.

    Parameters
    ----------
    vocab_size
        Number of tokens, padding included.
    embedding_dim
        Width of a word's embedding.
    hidden_dim
        Width of the encoding.
    num_layers
        Number of recurrent layers.
    cell
        ``gru`` or ``lstm``.
    bidirectional
        Whether each layer reads in both directions. Each direction has half the width of
        ``hidden_dim``, and the encoding concatenates their last states.
    padded_length
        Only for checkpoints of the original FiLM code, whose backward direction starts in the
        padding and whose encoding uses that direction's state at the last word. Shorter questions
        are padded to this length first; 0 adds no padding. None: padding is not read.
    embedding_dropout, layer_dropout, dropout
        Dropout probability of the embeddings, of the states between layers, and of the encoding.
    orthogonal
        Whether recurrent weights are initialised as orthogonal matrices. The paper uses torch's
        default.

    Raises
    ------
    OptionError
        If ``hidden_dim`` is odd with ``bidirectional``.
    """

    def __init__(
        self,
        vocab_size: Positive,
        *,
        embedding_dim: Positive = 200,
        hidden_dim: Positive = 4096,
        num_layers: Positive = 1,
        cell: Literal["gru", "lstm"] = "gru",
        bidirectional: bool = False,
        padded_length: Natural | None = None,
        embedding_dropout: Probability = 0.0,
        layer_dropout: Probability = 0.0,
        dropout: Probability = 0.0,
        orthogonal: bool = False,
    ) -> None:
        super().__init__()
        if bidirectional and hidden_dim % 2:
            raise OptionError(f"hidden_dim={hidden_dim}: must be even for two directions")
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
            self._init_orthogonal(width)

    def _init_orthogonal(self, width: int) -> None:
        """Initialise so that early words influence the last state even before training.

        Recurrent weights are orthogonal, input weights are Xavier's, and the bias of the gate that
        keeps the state is 1 (Jozefowicz et al. 2015).
        """
        for name, value in self.layers.named_parameters():
            if "weight" in name:
                init = nn.init.orthogonal_ if "hh" in name else nn.init.xavier_uniform_
                for gate in value.data.chunk(len(value) // width):
                    init(gate)
            else:
                nn.init.zeros_(value)
                if "ih" in name:  # second in torch's order: GRU's update, LSTM's forget gate
                    nn.init.ones_(value.data[width : 2 * width])

    def forward(self, questions: Tensor) -> Tensor:
        """Map token indices (B, T), padded with 0 at the end, to encodings (B, hidden_dim)."""
        return self.encode_words(questions)[1]

    def encode_words(self, questions: Tensor) -> tuple[Tensor, Tensor]:
        """Map token indices (B, T) to words' states and encodings.

        Returns
        -------
        tuple
            States (B, T, hidden_dim), undefined at padding, and encodings (B, hidden_dim).
        """
        questions, last_word, lengths = self.prepare(questions)
        device = self.embedding.weight.device
        rows, last = torch.arange(len(questions), device=device), to_device(last_word, device)
        states = self.embedding_dropout(self.embedding(to_device(questions, device)))  # (B, T, E)
        for i, layer in enumerate(self.layers):
            if i:
                states = self.layer_dropout(states)
            directions = [self._run(layer[0], states, lengths)]  # type: ignore[index]
            if self.bidirectional:
                order = to_device(self.reversed_positions(questions, last_word), device)
                backward = self._run(layer[1], _in_order(states, order), lengths)  # type: ignore[index]
                directions.append(_in_order(backward, order))
            states = torch.cat(directions, 2)  # (B, T, hidden_dim)
        final_states = [directions[0][rows, last]]
        if self.bidirectional:
            final_states.append(directions[1][rows, last if self.reads_padding else 0])
        return states, self.dropout(torch.cat(final_states, 1))

    @property
    def reads_padding(self) -> bool:
        """Whether padding is read; see ``padded_length``."""
        return self.padded_length is not None

    def prepare(self, questions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Pad the questions, and find each one's last word and length.

        Returns
        -------
        tuple
            On the CPU: questions (B, T) as they are read, the position (B,) of each one's last
            word, and the number (B,) of tokens that are read.
        """
        questions = questions.cpu()
        num_padding = (self.padded_length or 0) - questions.shape[1]
        if num_padding > 0:
            questions = F.pad(questions, (0, num_padding))
        last_word = (questions != 0).sum(1).clamp(min=1) - 1
        if self.reads_padding:
            return questions, last_word, torch.full_like(last_word, questions.shape[1])
        return questions, last_word, last_word + 1

    def reversed_positions(self, questions: Tensor, last_word: Tensor) -> Tensor:
        """Positions (B, T) that reverse each question and leave its padding at the end.

        With ``padded_length``, padding is reversed too. ``last_word`` (B,) is the position of each
        question's last word.
        """
        positions = torch.arange(questions.shape[1]).expand_as(questions)
        if self.reads_padding:
            return positions.flip(1)
        backward = last_word[:, None] - positions
        return backward.where(backward >= 0, positions)

    def _run(self, rnn: nn.Module, inputs: Tensor, lengths: Tensor) -> Tensor:
        """States (B, T, H) of a recurrent network after each input (B, T, E).

        Only the first ``lengths`` (B,) inputs are read.
        """
        packed = pack_padded_sequence(inputs, lengths, batch_first=True, enforce_sorted=False)
        states, _ = pad_packed_sequence(
            rnn(packed)[0], batch_first=True, total_length=inputs.shape[1]
        )
        # Autocast may have changed the dtype.
        return states.to(self.embedding.weight.dtype)


def _in_order(states: Tensor, positions: Tensor) -> Tensor:
    """Reorder states (B, T, D) by positions (B, T)."""
    return states.gather(1, positions[:, :, None].expand(-1, -1, states.shape[2]))
