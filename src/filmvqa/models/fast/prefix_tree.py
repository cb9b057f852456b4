"""The distinct prefixes of a batch of questions, so that each is encoded once.

Questions of one family begin with the same words ("what number of other objects are there of the
same ..."), and a recurrent network has the same state after equal prefixes. A batch of 256 CLEVR
questions has about 3 distinct prefixes for every 4 words, and a batch of 4,096 has 2 for every 3.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from filmvqa.system.devices import to_device


@dataclass(frozen=True)
class PrefixTree:
    """M prefixes of B questions, in levels: first those of one word, then those of two, and so on.

    Attributes
    ----------
    sizes
        Number of prefixes in each level.
    words
        Position (M,) of each prefix's last word in the flattened questions (B, T).
    parents
        Index (M,), within the previous level, of the prefix without its last word. 0 in the first
        level.
    nodes
        Index (B, T) of the prefix that ends at each word. At padding, that of the whole question.
    is_shared
        Whether equal prefixes of different questions are merged. If not, the tree is a packed
        batch.
    """

    sizes: list[int]
    words: Tensor
    parents: Tensor
    nodes: Tensor
    is_shared: bool

    def to(self, device: torch.device) -> PrefixTree:
        """Copy the tree to ``device`` without synchronisation."""
        words, parents, nodes = (
            to_device(x, device) for x in (self.words, self.parents, self.nodes)
        )
        return replace(self, words=words, parents=parents, nodes=nodes)


def prefix_tree(questions: Tensor, lengths: Tensor, *, share: bool = True) -> PrefixTree:
    """Build the tree of a batch of questions.

    Parameters
    ----------
    questions
        Token indices (B, T) on the CPU.
    lengths
        Number of words of each question (B,) on the CPU, at least 1.
    share
        Whether to merge equal prefixes.
    """
    tokens = questions.numpy()  # (B, T)
    length = lengths.numpy()[:, None]  # (B, 1)
    num_questions, max_length = tokens.shape
    order = np.lexsort(tokens.T[::-1]) if share else np.argsort(-length[:, 0], kind="stable")
    tokens, length = tokens[order], length[order]
    is_new = np.arange(max_length) < length  # (B, T)
    if share:  # in sorted order, a prefix is new if it differs from the previous question's
        is_new[1:] &= np.logical_or.accumulate(tokens[1:] != tokens[:-1], axis=1)
    sizes = is_new.sum(0)  # (T,)
    index_in_level = is_new.cumsum(0) - 1  # (B, T)
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
        is_shared=share,
    )
