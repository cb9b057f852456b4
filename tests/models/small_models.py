"""Small models, and questions for them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from filmvqa.models import build_model, targets_of

SMALL = {
    "film": {
        "channels": 12, "num_blocks": 2,
        "encoder": {"embedding_dim": 8, "hidden_dim": 16},
        "classifier": {"projection_dim": 10, "hidden_dims": [14]},
    },
    "film_segmentation": {
        "channels": 12, "num_blocks": 2, "reads": True,
        "encoder": {"embedding_dim": 8, "hidden_dim": 16},
        "head": {"hidden_dim": 10, "fine_dim": 4},
    },
    "film_label_maps": {
        "channels": 12, "num_blocks": 2, "encoder": {"embedding_dim": 8, "hidden_dim": 16},
        "head": {"hidden_dim": 10, "fine_dim": 4},
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


def sizes(name: str, num_answers: int = 7) -> dict[str, Any]:
    """The options that set the size of a model's output."""
    return {
        "answers": {"num_answers": num_answers}, "masks": {"mask_size": [10, 10]},
        "label_maps": {"mask_size": [10, 10], "num_maps": 7},
    }[targets_of(name)]  # fmt: skip


def small(name: str, **options: Any) -> nn.Module:
    """Build the small model ``name`` with options, always with the same initial weights."""
    torch.manual_seed(0)
    inputs = {k: v for k, v in SIZES.items() if k != "num_answers"}
    return build_model(name, **inputs | sizes(name) | SMALL[name] | options)


def questions(lengths: list[int]) -> torch.Tensor:
    """Random questions (B, T) of the given lengths, padded with 0."""
    rows = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = torch.randint(1, 20, (length,))
    return rows
