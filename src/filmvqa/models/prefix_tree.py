"""The distinct beginnings of a batch of questions, so that each is encoded once.

Questions of a kind begin alike ("what number of other objects are there of the same ..."), and a
recurrent network read from the left has one state for one beginning. Of a batch of 256 CLEVR
questions about three words in four begin something new, of 4,096 two in three.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from filmvqa.devices import to_device


@dataclass(frozen=True)
class PrefixTree:
    """M prefixes of B questions, shorter before longer, those of one length side by side.

    ``sizes`` counts the prefixes of 1, 2, ... words; ``words`` (M,) is the place in the flattened
    (B, T) questions of each one's last word; ``parents`` (M,) the prefix one word shorter, counted
    among those of its length (0 for those of one word); ``nodes`` (B, T) the prefix that ends at
    each word, at padding that of the whole question.
    """

    sizes: list[int]
    words: Tensor
    parents: Tensor
    nodes: Tensor

    def to(self, device: torch.device) -> PrefixTree:
        """The same with its indices on a device, sent without waiting for it."""
        indices = (to_device(index, device) for index in (self.words, self.parents, self.nodes))
        return PrefixTree(self.sizes, *indices)


def prefix_tree(questions: Tensor, lengths: Tensor, *, share: bool = True) -> PrefixTree:
    """The tree of questions (B, T) of ``lengths`` (B,), at least 1 each, both on the CPU.

    ``share=False`` keeps equal prefixes of different questions apart: what a packed batch is.
    """
    tokens = questions.numpy()  # (B, T)
    length = lengths.numpy()[:, None]  # (B, 1)
    num_questions, max_length = tokens.shape
    order = np.lexsort(tokens.T[::-1]) if share else np.argsort(-length[:, 0], kind="stable")
    tokens, length = tokens[order], length[order]
    is_new = np.arange(max_length) < length  # (B, T)
    if share:  # where it differs, there or before, from the question above it
        is_new[1:] &= np.logical_or.accumulate(tokens[1:] != tokens[:-1], axis=1)
    sizes = is_new.sum(0)  # (T,)
    index_in_level = is_new.cumsum(0) - 1  # (B, T): of a word's prefix among those of its length
    starts = np.concatenate([[0], sizes.cumsum()[:-1]])
    last_position = np.minimum(np.arange(max_length), length - 1)  # (B, T)
    nodes = np.empty((num_questions, max_length), np.int64)
    nodes[order] = np.take_along_axis(index_in_level + starts, last_position, 1)
    position, row = np.nonzero(is_new.T)  # (M,)
    parents = np.where(position > 0, index_in_level[row, position - 1], 0)
    return PrefixTree(
        sizes=[int(n) for n in sizes if n],
        words=torch.from_numpy(order[row] * max_length + position),
        parents=torch.from_numpy(parents),
        nodes=torch.from_numpy(nodes),
    )
