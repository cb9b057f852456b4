"""Small models and questions for them."""

from __future__ import annotations

import torch
from torch import nn

from filmvqa.models import build_model

SMALL = {
    "film": {
        "channels": 12, "num_blocks": 2,
        "encoder": {"embedding_dim": 8, "hidden_dim": 16},
        "classifier": {"projection_dim": 10, "hidden_dims": [14]},
    },
    "mac": {"dim": 16, "num_steps": 3, "embedding_dim": 8},
    "cnn_lstm_sa": {
        "embedding_dim": 8, "hidden_dim": 16, "attention_dim": 12, "classifier_dims": [12],
    },
    "cnn_lstm": {
        "embedding_dim": 8, "hidden_dim": 16, "projection_dim": 6, "classifier_dims": [12],
    },
    "lstm": {"embedding_dim": 8, "hidden_dim": 16, "num_layers": 2, "classifier_dims": [12]},
    "qtype": {},
}  # fmt: skip
SIZES = {"vocab_size": 20, "num_answers": 7, "feature_shape": [6, 5, 5]}


def small(name: str) -> nn.Module:
    """The small model of that name, always with the same initial weights."""
    torch.manual_seed(0)
    return build_model(name, **SIZES, **SMALL[name])


def questions(lengths: list[int]) -> torch.Tensor:
    """Random questions (B, T) of these lengths, padded with 0."""
    rows = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = torch.randint(1, 20, (length,))
    return rows
