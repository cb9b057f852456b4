"""Checkpoints: all that is needed to go on, to evaluate and to ask, in one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from filmvqa.data.text import Vocabulary
from filmvqa.errors import UserError, one_line
from filmvqa.files import atomic_write
from filmvqa.models import build_model

FORMAT = "filmvqa-checkpoint-2"


def save_checkpoint(path: str | Path, content: dict[str, Any]) -> None:
    """Write a checkpoint of plain data and tensors, whole or not at all."""
    with atomic_write(path) as stream:
        torch.save({"format": FORMAT, **content}, stream)


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint; nothing in the file is executed.

    Raises
    ------
    UserError
        If it is missing, unreadable or no checkpoint of this project.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such checkpoint; train one with scripts/train.py") from None
    except Exception as error:  # torch raises half a dozen kinds for a file it cannot read
        reason = one_line(error, 120)
        raise UserError(f"{path}: not a readable checkpoint ({reason})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this project ({FORMAT})")
    return content


def scored_weights(content: dict[str, Any]) -> dict[str, Any]:
    """The weights that a checkpoint's scores are those of: averaged ones where it has them."""
    found: dict[str, Any] = content["average"] or content["weights"]
    return found


def model_from_checkpoint(
    content: dict[str, Any], path: str | Path
) -> tuple[nn.Module, Vocabulary]:
    """The model, in evaluation mode, and the vocabulary that a checkpoint holds.

    Raises
    ------
    UserError
        For an unknown model, weights that do not fit its options, or a vocabulary of other size.
    """
    vocabulary = Vocabulary.from_dict(content["vocabulary"])
    vocabulary.check(str(path))
    kwargs = content["model"]["kwargs"]
    model = build_model(content["model"]["name"], **kwargs)
    sizes = (len(vocabulary.question), len(vocabulary.answer))
    if sizes != (kwargs["vocab_size"], kwargs["num_answers"]):
        raise UserError(
            f"{path}: its vocabulary has {sizes[0]} words and {sizes[1]} answers, its model "
            f"{kwargs['vocab_size']} and {kwargs['num_answers']}"
        )
    try:
        model.load_state_dict(scored_weights(content))
    except RuntimeError as error:
        reason = one_line(error)
        raise UserError(f"{path}: its weights do not fit its model ({reason})") from None
    return model.eval(), vocabulary
