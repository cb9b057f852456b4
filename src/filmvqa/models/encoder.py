"""Question encoders: token indices to one vector, and to one vector a word."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from filmvqa.devices import to_device
from filmvqa.errors import OptionError
from filmvqa.models.options import Natural, Positive, Probability, check_choice
from filmvqa.models.prefix_tree import PrefixTree, prefix_tree
from filmvqa.models.recurrence import run_recurrence

CELLS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


class QuestionEncoder(nn.Module):
    """Word embeddings and a recurrent network, read at the question's true end (section 3).

    Index 0 pads; padding is never read. Beginnings that questions share are encoded once, which
    changes nothing: where dropout makes them differ they are kept apart. With ``bidirectional``
    each direction has half of ``hidden_dim``, and the encoding is both directions' last states.

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
        vocab_size: Positive,
        *,
        embedding_dim: Positive = 200,
        hidden_dim: Positive = 4096,
        num_layers: Positive = 1,
        cell: str = "gru",
        bidirectional: bool = False,
        padded_length: Natural | None = None,
        embedding_dropout: Probability = 0.0,
        layer_dropout: Probability = 0.0,
        dropout: Probability = 0.0,
        orthogonal: bool = False,
    ) -> None:
        super().__init__()
        check_choice("cell", cell, tuple(CELLS))
        if bidirectional and hidden_dim % 2:
            raise OptionError(f"hidden_dim={hidden_dim} of two directions must be even")
        self.output_dim = hidden_dim
        self.padded_length = padded_length
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        directions = 2 if bidirectional else 1
        width = hidden_dim // directions
        self.bidirectional = bidirectional
        self.layers = nn.ModuleList(
            nn.ModuleList(  # torch's modules hold the weights; run_recurrence reads with them
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
        """Orthogonal recurrent weights and, in the gate that keeps the state, a bias of 1, so
        that early words reach the end from the first step on (Jozefowicz et al. 2015)."""
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
        """(B, T) indices, padded with 0 at the end, to (B, hidden_dim)."""
        return self._encode(questions, every_word=False)[1]

    def encode_words(self, questions: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) to a state a word (B, T, hidden_dim) and the encoding (B, hidden_dim).

        States at padding mean nothing.
        """
        return self._encode(questions, every_word=True)

    def _encode(self, questions: Tensor, every_word: bool) -> tuple[Tensor, Tensor]:
        # Which prefixes there are is found on the host: questions that lie there cost no waiting.
        device = self.embedding.weight.device
        questions = questions.cpu()
        num_padding = (self.padded_length or 0) - questions.shape[1]
        if num_padding > 0:
            questions = F.pad(questions, (0, num_padding))
        directions = self._directions(questions, device)
        # Where dropout tells no two of a word's places apart, its input is computed once.
        distinct_words, word_index = torch.unique(questions, return_inverse=True)
        embedded = self.embedding(to_device(distinct_words, device))  # (K, E)
        input_index: Tensor | None = to_device(word_index, device).flatten()  # (B T,)
        states = embedded
        if self.training and self.embedding_dropout.p > 0:
            embedded = embedded[input_index].view(*questions.shape, -1)  # (B, T, E)
            states, input_index = self.embedding_dropout(embedded), None
        for i, layer in enumerate(self.layers):
            if i:
                states, input_index = self.layer_dropout(states), None  # (B, T, hidden_dim)
            prefix_states = [
                _prefix_states(rnn, states, direction.tree, input_index)
                for rnn, direction in zip(layer.children(), directions, strict=True)
            ]
            if every_word or i + 1 < len(self.layers):
                word_states = [
                    h[d.tree.nodes] for h, d in zip(prefix_states, directions, strict=True)
                ]
                states = torch.cat(word_states, 2)  # (B, T, hidden_dim)
        final_states = [h[d.final_nodes] for h, d in zip(prefix_states, directions, strict=True)]
        return states, self.dropout(torch.cat(final_states, 1))

    def _directions(self, questions: Tensor, device: torch.device) -> list[_Direction]:
        last_word = (questions != 0).sum(1).clamp(min=1) - 1  # (B,)
        has_dropout = self.embedding_dropout.p > 0 or (
            len(self.layers) > 1 and self.layer_dropout.p > 0
        )
        # The two directions' states of a word, together, belong to one question alone.
        share = not (
            (self.training and has_dropout) or (self.bidirectional and len(self.layers) > 1)
        )
        rows = torch.arange(len(questions))
        reads_padding = self.padded_length is not None
        length = questions.shape[1]
        lengths = torch.full_like(last_word, length) if reads_padding else last_word + 1
        tree = prefix_tree(questions, lengths, share=share)
        directions = [_Direction(tree, tree.nodes[rows, last_word])]
        if self.bidirectional:
            positions = self._reversed_positions(questions, last_word)  # (B, T)
            tree = prefix_tree(questions.gather(1, positions), lengths, share=share)
            words = (positions + rows[:, None] * length).flatten()[tree.words]
            tree = replace(tree, words=words, nodes=tree.nodes.gather(1, positions))
            final_nodes = tree.nodes[rows, last_word if reads_padding else 0]
            directions.append(_Direction(tree, final_nodes))
        return [
            _Direction(tree.to(device), to_device(final_nodes, device))
            for tree, final_nodes in directions
        ]

    def _reversed_positions(self, questions: Tensor, last_word: Tensor) -> Tensor:
        """Places (B, T) of each question from its end to its beginning, padding where it is;
        with ``padded_length``, from the end of the padding."""
        positions = torch.arange(questions.shape[1]).expand_as(questions)
        if self.padded_length is not None:
            return positions.flip(1)
        backward = last_word[:, None] - positions
        return backward.where(backward >= 0, positions)


class _Direction(NamedTuple):
    """The prefixes that one direction reads, as places in the questions as they stand, and those
    that are the encoding (B,)."""

    tree: PrefixTree
    final_nodes: Tensor


def _prefix_states(
    rnn: nn.Module, states: Tensor, tree: PrefixTree, input_index: Tensor | None
) -> Tensor:
    """States after each prefix, from those of each word (B, T, E), or from distinct ones
    (K, E) of which ``input_index`` (B T,) tells each word's."""
    if input_index is not None:
        return run_recurrence(rnn, states, tree, input_index[tree.words])
    return run_recurrence(rnn, states.flatten(0, 1)[tree.words], tree)
