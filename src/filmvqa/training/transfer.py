"""Training that begins from another run's weights, and of some parts alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from filmvqa.checkpoint import load_checkpoint, scored_weights, vocabulary_of
from filmvqa.data.vocabulary import Vocabulary
from filmvqa.errors import UserError
from filmvqa.training.optim import check_parts, in_part

#: Weights that a model may have without the checkpoint it starts from.
_NEW = ("film_generator.task_offset",)
_WORDS = "encoder.embedding.weight"
#: Parts whose last layer has a row an answer.
_ANSWERING = ("classifier", "output")


def start_from(
    model: nn.Module, name: str, path: str | Path, vocabulary: Vocabulary
) -> tuple[int, int]:
    """Take over the weights of a checkpoint, word by word and answer by answer.

    Words and answers that the checkpoint does not know keep what the model began with.

    Parameters
    ----------
    name
        The model's name, which the checkpoint's must be.
    vocabulary
        That of the data, by which the model was built.

    Returns
    -------
    tuple
        Words carried over, and words that are new.

    Raises
    ------
    UserError
        If the checkpoint is of another model, or its weights do not fit this one.
    """
    content = load_checkpoint(path)
    if content["model"]["name"] != name:
        raise UserError(f"{path}: is a {content['model']['name']}, not a {name}")
    old = vocabulary_of(content, path)
    weights, ours = scored_weights(content), model.state_dict()
    if odd := [k for k in weights.keys() ^ ours.keys() if k not in _NEW]:
        raise UserError(f"{path}: its weights do not fit this model (only one has {min(odd)})")
    for label, mine in ours.items():
        if label not in weights:
            continue
        theirs = weights[label]
        if label == _WORDS:
            _copy_rows(mine, theirs, vocabulary.question, old.question)
        elif (
            label.startswith(_ANSWERING)
            and len(mine.shape) > 0
            and mine.shape[1:] == theirs.shape[1:]
            and (mine.shape[0], theirs.shape[0]) == (len(vocabulary.answer), len(old.answer))
        ):
            _copy_rows(mine, theirs, vocabulary.answer, old.answer)
        elif mine.shape == theirs.shape:
            mine.copy_(theirs)
        else:
            raise UserError(
                f"{path}: its weights do not fit this model ({label} is "
                f"{tuple(theirs.shape)} there, {tuple(mine.shape)} here)"
            )
    kept = len(vocabulary.question.keys() & old.question.keys())
    return kept, len(vocabulary.question) - kept


def _copy_rows(mine: Tensor, theirs: Tensor, new: dict[str, int], old: dict[str, int]) -> None:
    shared = sorted(new.keys() & old.keys())
    mine[[new[t] for t in shared]] = theirs[[old[t] for t in shared]]


def train_only(model: nn.Module, parts: Sequence[str] | None) -> None:
    """Freeze all weights but those of the named parts; None: none.

    Raises
    ------
    UserError
        For a part that the model does not have.
    """
    if parts is None:
        return
    check_parts(model, parts, "train.parts")
    for name, weight in model.named_parameters():
        weight.requires_grad_(any(in_part(name, part) for part in parts))


def training_mode(model: nn.Module) -> None:
    """Training mode, but for parts that are frozen: their norms keep their statistics."""
    model.train()
    for child in model.children():
        weights = list(child.parameters())
        if weights and not any(w.requires_grad for w in weights):
            child.eval()


def count_weights(model: nn.Module) -> tuple[int, int]:
    """All of a model's weights, and those that are trained."""
    sizes = torch.tensor([[w.numel(), w.numel() * w.requires_grad] for w in model.parameters()])
    total = sizes.sum(0).tolist() if len(sizes) else [0, 0]
    return int(total[0]), int(total[1])
