"""Attention of FiLM layers to a question's words."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from filmvqa.system.devices import at_least_float32

#: Rank of the map from encoding to queries, if a layer has several queries.
QUERY_RANK = 64

#: Initial change of a query's scores from the first word to the middle of the question.
SLOPE = 3.0


class WordAttention(nn.Module):
    """Compute each part of a FiLM layer's parameters from words that the part attends to.

    (In the spirit of Strub et al. 2018, whose layers attend one after the other.)

    Queries are linear in the encoding. If a layer has several parts, their scores also rise or fall
    with a word's position, by a learned slope. Half of the parts thereby start at early words and
    the others at late words. Parts that start alike all attend to the most useful phrase, so that
    the network answers "are there more A than B" from A alone (docs/learning.md).

    Parameters
    ----------
    input_dim
        Width D of encodings and of words' states.
    num_layers
        Number L of FiLM layers.
    part_sizes
        Width of each of a layer's P parts.
    """

    def __init__(self, input_dim: int, num_layers: int, part_sizes: Sequence[int]) -> None:
        super().__init__()
        self.num_layers, self.num_parts = num_layers, len(part_sizes)
        num_queries = num_layers * self.num_parts
        self.query: nn.Module
        self.slopes: nn.Parameter | None = None
        if self.num_parts == 1:  # as in checkpoints of earlier versions
            self.query = nn.Linear(input_dim, num_queries * input_dim)
        else:
            self.query = nn.Sequential(
                nn.Linear(input_dim, QUERY_RANK), nn.Linear(QUERY_RANK, num_queries * input_dim)
            )
            signs = [(-1) ** (i + j) for i in range(num_layers) for j in range(self.num_parts)]
            # Arithmetic on tensors without values (the meta device) would import torch._dynamo.
            self.slopes = nn.Parameter(torch.tensor([SLOPE * sign for sign in signs]))
        self.decoders = nn.ModuleList(
            nn.Linear(input_dim, size) for _ in range(num_layers) for size in part_sizes
        )

    def forward(self, encoding: Tensor, words: Tensor, padding: Tensor) -> list[Tensor]:
        """Map encodings (B, D), words' states (B, T, D) and padding (B, T) to the P parts.

        Each part is (B, L, size), for all layers.
        """
        queries = self.query(encoding).view(len(encoding), -1, encoding.shape[1])  # (B, L P, D)
        read = self.attend(queries, words, padding)  # (B, L P, D)
        decoded = [decode(x) for decode, x in zip(self.decoders, read.unbind(1), strict=True)]
        return [torch.stack(decoded[part :: self.num_parts], 1) for part in range(self.num_parts)]

    def attend(self, queries: Tensor, words: Tensor, padding: Tensor) -> Tensor:
        """Average a question's words (B, T, D) for each query (B, Q, D): (B, Q, D).

        The weights are a softmax of the products of query and word over √D (Vaswani et al. 2017,
        section 3.2.1), plus the slope times the word's position from -1 to 1. ``padding`` (B, T)
        marks the padding at the end.
        """
        scores = queries @ words.transpose(1, 2) / math.sqrt(words.shape[2])  # (B, Q, T)
        scores = at_least_float32(scores)
        if self.slopes is not None:
            lengths = (~padding).sum(1, keepdim=True)
            places = 2 * torch.arange(words.shape[1], device=words.device) / lengths - 1  # (B, T)
            scores = scores + self.slopes[:, None] * places[:, None]
        scores = scores.masked_fill(padding[:, None], -torch.inf)
        return torch.softmax(scores, 2).to(words.dtype) @ words
