"""Question encoders: token indices to one vector, and to one vector a word."""

from __future__ import annotations

from dataclasses import replace

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
        return self._run(questions, every_word=False)[1]

    def read(self, questions: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) to a state a word (B, T, hidden_dim) and the encoding (B, hidden_dim).

        States at padding mean nothing.
        """
        return self._run(questions, every_word=True)

    def _run(self, questions: Tensor, every_word: bool) -> tuple[Tensor, Tensor]:
        # Which prefixes there are is found on the host: questions that lie there cost no waiting.
        device = self.embedding.weight.device
        questions = questions.cpu()
        missing = (self.padded_length or 0) - questions.shape[1]
        if missing > 0:
            questions = F.pad(questions, (0, missing))
        last = (questions != 0).sum(1).clamp(min=1) - 1  # (B,)
        directions = self._directions(questions, last, device)
        # Where dropout tells no two of a word's places apart, its input is computed once.
        distinct, of = torch.unique(questions, return_inverse=True)
        vectors = self.embedding(to_device(distinct, device))  # (K, E)
        which: Tensor | None = to_device(of, device).flatten()
        states = vectors
        if self.training and self.embedding_dropout.p > 0:
            states, which = self.embedding_dropout(vectors[which].view(*questions.shape, -1)), None
        for i, layer in enumerate(self.layers):
            if i:
                states, which = self.layer_dropout(states), None  # (B, T, hidden_dim)
            found = [
                (self._read(rnn, states, tree, which), end)
                for rnn, (tree, end) in zip(layer.children(), directions, strict=True)
            ]
            if every_word or i + 1 < len(self.layers):
                read = [f[tree.nodes] for (f, _), (tree, _) in zip(found, directions, strict=True)]
                states = torch.cat(read, 2)  # (B, T, hidden_dim)
        return states, self.dropout(torch.cat([f[end] for f, end in found], 1))

    @staticmethod
    def _read(rnn: nn.Module, states: Tensor, tree: PrefixTree, which: Tensor | None) -> Tensor:
        """States after each prefix, from those of each word (B, T, E), or from distinct ones
        (K, E) of which ``which`` (B T,) tells each word's."""
        if which is not None:
            return run_recurrence(rnn, states, tree, which[tree.words])
        return run_recurrence(rnn, states.flatten(0, 1)[tree.words], tree)

    def _directions(
        self, questions: Tensor, last: Tensor, device: torch.device
    ) -> list[tuple[PrefixTree, Tensor]]:
        """For each direction the prefixes that it reads, as places in the questions as they
        stand, and those that are the encoding (B,); ``last`` (B,) is each question's last word."""
        drops = self.embedding_dropout.p > 0 or (len(self.layers) > 1 and self.layer_dropout.p > 0)
        # The two directions' states of a word, together, belong to one question alone.
        apart = (self.training and drops) or (self.bidirectional and len(self.layers) > 1)
        rows = torch.arange(len(questions))
        padded = self.padded_length is not None
        lengths = torch.full_like(last, questions.shape[1]) if padded else last + 1
        tree = prefix_tree(questions, lengths, share=not apart)
        found = [(tree.to(device), to_device(tree.nodes[rows, last], device))]
        if self.bidirectional:
            mirrored = self._mirrored(questions, last)  # (B, T)
            tree = prefix_tree(questions.gather(1, mirrored), lengths, share=not apart)
            words = (mirrored + rows[:, None] * questions.shape[1]).flatten()[tree.words]
            tree = replace(tree, words=words, nodes=tree.nodes.gather(1, mirrored))
            end = tree.nodes[rows, last if padded else 0]
            found.append((tree.to(device), to_device(end, device)))
        return found

    def _mirrored(self, questions: Tensor, last: Tensor) -> Tensor:
        """Places (B, T) of each question from its end to its beginning, padding where it is;
        with ``padded_length``, from the end of the padding."""
        places = torch.arange(questions.shape[1]).expand_as(questions)
        if self.padded_length is not None:
            return places.flip(1)
        backward = last[:, None] - places
        return backward.where(backward >= 0, places)
