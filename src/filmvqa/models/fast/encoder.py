"""The question encoder over a prefix tree: prefixes that questions share are encoded once."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from filmvqa.models.encoder import QuestionEncoder
from filmvqa.models.fast.prefix_tree import PrefixTree, prefix_tree
from filmvqa.models.fast.recurrence import run_recurrence, shares_prefixes
from filmvqa.models.fast.replacement import is_intact
from filmvqa.system.devices import to_device


class FastQuestionEncoder(QuestionEncoder):
    """``QuestionEncoder`` that encodes each prefix of a batch's questions once.

    The result is the same. If dropout makes the states of equal prefixes differ, each question's
    prefixes are encoded separately.
    """

    def forward(self, questions: Tensor) -> Tensor:
        if not is_intact(self):
            return super().forward(questions)
        return self._encode(questions, every_word=False)[1]

    def encode_words(self, questions: Tensor) -> tuple[Tensor, Tensor]:
        if not is_intact(self):
            return super().encode_words(questions)
        return self._encode(questions, every_word=True)

    def _encode(self, questions: Tensor, every_word: bool) -> tuple[Tensor, Tensor]:
        device = self.embedding.weight.device
        # The prefix tree is built on the CPU, so that questions there need no synchronisation.
        questions, last_word, lengths = self.prepare(questions)
        directions = self._directions(questions, last_word, lengths, device)
        # Without dropout of embeddings, all occurrences of a word have the same input.
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

    def _directions(
        self, questions: Tensor, last_word: Tensor, lengths: Tensor, device: torch.device
    ) -> list[_Direction]:
        """The forward direction over questions (B, T), and the backward direction if any."""
        has_dropout = self.embedding_dropout.p > 0 or (
            len(self.layers) > 1 and self.layer_dropout.p > 0
        )
        # With two directions, a word's state depends on the whole question, so that a second layer
        # shares no prefixes.
        share = shares_prefixes(device) and not (
            (self.training and has_dropout) or (self.bidirectional and len(self.layers) > 1)
        )
        rows, length = torch.arange(len(questions)), questions.shape[1]
        tree = prefix_tree(questions, lengths, share=share)
        directions = [_Direction(tree, tree.nodes[rows, last_word])]
        if self.bidirectional:
            positions = self.reversed_positions(questions, last_word)  # (B, T)
            tree = prefix_tree(questions.gather(1, positions), lengths, share=share)
            words = (positions + rows[:, None] * length).flatten()[tree.words]
            tree = replace(tree, words=words, nodes=tree.nodes.gather(1, positions))
            final_nodes = tree.nodes[rows, last_word if self.reads_padding else 0]
            directions.append(_Direction(tree, final_nodes))
        return [
            _Direction(tree.to(device), to_device(final_nodes, device))
            for tree, final_nodes in directions
        ]


class _Direction(NamedTuple):
    """The prefixes that one direction reads, and the final prefix of each question (B,).

    In both directions, the tree's positions refer to the questions in reading order.
    """

    tree: PrefixTree
    final_nodes: Tensor


def _prefix_states(
    rnn: nn.Module, states: Tensor, tree: PrefixTree, input_index: Tensor | None
) -> Tensor:
    """Compute the state (M, H) after each prefix.

    The inputs ``states`` are (B, T, E), one for each word, or (K, E), with each word's row in
    ``input_index`` (B T,).
    """
    if input_index is not None:
        return run_recurrence(rnn, states, tree, input_index[tree.words])
    return run_recurrence(rnn, states.flatten(0, 1)[tree.words], tree)
