"""Training from another run's weights, and of some parts alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from filmvqa.checkpoint import eval_weights, load_checkpoint, vocabulary_of
from filmvqa.data.vocabulary import Vocabulary
from filmvqa.errors import UserError
from filmvqa.training.optimizer import check_parts, in_part

#: Weights that may be missing in the checkpoint.
_NEW = ("film_generator.task_offset",)
_EMBEDDING = "encoder.embedding.weight"
#: Parts whose last layer has one row for each answer.
_CLASSIFIERS = ("classifier", "output")


def warm_start(
    model: nn.Module, name: str, path: str | Path, vocabulary: Vocabulary
) -> tuple[int, int]:
    """Take over the weights of a checkpoint, word by word and answer by answer.

    Words and answers that the checkpoint does not have keep their initial weights.

    Parameters
    ----------
    name
        The model's name, which the checkpoint's must be.
    vocabulary
        That of the data, with which the model was built.

    Returns
    -------
    tuple
        Numbers of words that the checkpoint has, and of new words.

    Raises
    ------
    UserError
        If the checkpoint is of another model, or its weights do not fit this one.
    """
    content = load_checkpoint(path)
    if content["model"]["name"] != name:
        raise UserError(f"{path}: is a {content['model']['name']}, not a {name}")
    old = vocabulary_of(content, path)
    old_weights, weights = eval_weights(content), model.state_dict()
    if unmatched := [k for k in old_weights.keys() ^ weights.keys() if k not in _NEW]:
        raise UserError(
            f"{path}: its weights do not fit this model (only one has {min(unmatched)})"
        )
    for key, weight in weights.items():
        if key not in old_weights:
            continue
        old_weight = old_weights[key]
        if key == _EMBEDDING:
            _copy_rows(weight, old_weight, vocabulary.question, old.question)
        elif (
            key.startswith(_CLASSIFIERS)
            and len(weight.shape) > 0
            and weight.shape[1:] == old_weight.shape[1:]
            and (weight.shape[0], old_weight.shape[0]) == (len(vocabulary.answer), len(old.answer))
        ):
            _copy_rows(weight, old_weight, vocabulary.answer, old.answer)
        elif weight.shape == old_weight.shape:
            weight.copy_(old_weight)
        else:
            raise UserError(
                f"{path}: its weights do not fit this model ({key} is "
                f"{tuple(old_weight.shape)} there, {tuple(weight.shape)} here)"
            )
    known = len(vocabulary.question.keys() & old.question.keys())
    return known, len(vocabulary.question) - known


def _copy_rows(
    weight: Tensor, old_weight: Tensor, index: dict[str, int], old_index: dict[str, int]
) -> None:
    shared = sorted(index.keys() & old_index.keys())
    weight[[index[t] for t in shared]] = old_weight[[old_index[t] for t in shared]]


def freeze_except(model: nn.Module, parts: Sequence[str] | None) -> None:
    """Freeze all weights but those of the named parts; None freezes none.

    Raises
    ------
    UserError
        For a part that the model does not have.
    """
    if parts is None:
        return
    check_parts(model, parts, "train.trainable")
    for name, weight in model.named_parameters():
        weight.requires_grad_(any(in_part(name, part) for part in parts))


def training_mode(model: nn.Module) -> None:
    """Set training mode, except in frozen parts, whose norms keep their statistics."""
    model.train()
    for child in model.children():
        weights = list(child.parameters())
        if weights and not any(w.requires_grad for w in weights):
            child.eval()


def count_weights(model: nn.Module) -> tuple[int, int]:
    """Numbers of all weights of a model, and of those that are trained."""
    sizes = torch.tensor([[w.numel(), w.numel() * w.requires_grad] for w in model.parameters()])
    total = sizes.sum(0).tolist() if len(sizes) else [0, 0]
    return int(total[0]), int(total[1])
