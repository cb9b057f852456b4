"""The question encoder: from token indices to one vector a question and one a word."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from filmvqa.models.options import check_choice
from filmvqa.models.prefix_tree import PrefixTree, prefix_tree
from filmvqa.models.recurrence import run_recurrence, shares_prefixes
from filmvqa.settings.typed import Natural, Positive, Probability
from filmvqa.system.devices import to_device
from filmvqa.system.errors import OptionError

CELLS: dict[str, type[nn.GRU] | type[nn.LSTM]] = {"gru": nn.GRU, "lstm": nn.LSTM}


class QuestionEncoder(nn.Module):
    """Word embeddings and a recurrent network whose last state is the encoding (section 3).

    Index 0 is padding, which is not read. A prefix that several questions of a batch share is
    encoded once. The result is the same; where dropout makes the states of equal prefixes differ,
    each question's prefixes are encoded separately.

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
        Whether each layer reads in both directions. Each direction's width is half of
        ``hidden_dim``, and the encoding is the concatenation of their last states.
    padded_length
        Only for checkpoints of the original FiLM code, whose backward direction begins in the
        padding and whose encoding has that direction's state at the last word. Shorter questions
        are first padded to this length; with 0 they are taken as they are. None: padding is not
        read.
    embedding_dropout, layer_dropout, dropout
        Dropout probability of the embeddings, of the states between layers, and of the encoding.
    orthogonal
        Whether to initialise the recurrent weights as orthogonal matrices instead of torch's
        default, which is the paper's.

    Raises
    ------
    OptionError
        If ``cell`` is unknown, or ``hidden_dim`` is odd with ``bidirectional``.
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
            raise OptionError(f"hidden_dim={hidden_dim}: must be even for two directions")
        self.output_dim = hidden_dim
        self.padded_length = padded_length
        self.embedding = nn.Embedding(vocab_size, embedding_dim)
        directions = 2 if bidirectional else 1
        width = hidden_dim // directions
        self.bidirectional = bidirectional
        self.layers = nn.ModuleList(
            nn.ModuleList(  # torch's modules hold the weights that run_recurrence uses
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
        """Initialise so that early words influence the last state before any training.

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
        return self._encode(questions, every_word=False)[1]

    def encode_words(self, questions: Tensor) -> tuple[Tensor, Tensor]:
        """Map token indices (B, T) to each word's state and to encodings.

        Returns
        -------
        tuple
            States (B, T, hidden_dim), which are undefined at padding, and encodings
            (B, hidden_dim).
        """
        return self._encode(questions, every_word=True)

    def _encode(self, questions: Tensor, every_word: bool) -> tuple[Tensor, Tensor]:
        # The prefix tree is built on the host, so questions on the host need no synchronisation.
        device = self.embedding.weight.device
        questions = questions.cpu()
        num_padding = (self.padded_length or 0) - questions.shape[1]
        if num_padding > 0:
            questions = F.pad(questions, (0, num_padding))
        directions = self._directions(questions, device)
        # Without dropout on embeddings, all occurrences of a word have one input.
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
        """The forward direction over questions (B, T), and the backward one if there is one."""
        last_word = (questions != 0).sum(1).clamp(min=1) - 1  # (B,)
        has_dropout = self.embedding_dropout.p > 0 or (
            len(self.layers) > 1 and self.layer_dropout.p > 0
        )
        # A word's state of both directions depends on the whole question, so that the second layer
        # has no shared prefixes.
        share = shares_prefixes(device) and not (
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
        """Positions (B, T) that read each question backwards and leave its padding at the end.

        With ``padded_length``, padding is reversed too. ``last_word`` (B,) is each question's last
        position that is no padding.
        """
        positions = torch.arange(questions.shape[1]).expand_as(questions)
        if self.padded_length is not None:
            return positions.flip(1)
        backward = last_word[:, None] - positions
        return backward.where(backward >= 0, positions)


class _Direction(NamedTuple):
    """The prefixes that one direction reads, and those whose states are the encodings (B,).

    The tree's positions are those of the questions as given, in both directions.
    """

    tree: PrefixTree
    final_nodes: Tensor


def _prefix_states(
    rnn: nn.Module, states: Tensor, tree: PrefixTree, input_index: Tensor | None
) -> Tensor:
    """The state (M, H) after each prefix.

    ``states`` are the inputs, (B, T, E) with one for each word, or (K, E) with the row of each word
    in ``input_index`` (B T,).
    """
    if input_index is not None:
        return run_recurrence(rnn, states, tree, input_index[tree.words])
    return run_recurrence(rnn, states.flatten(0, 1)[tree.words], tree)
