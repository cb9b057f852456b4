"""Transfer learning: starting from another run's weights, and training only some modules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from filmvqa.checkpoints.checkpoint import (
    eval_weights,
    feature_differences,
    load_checkpoint,
    vocabulary_of,
)
from filmvqa.models.protocols import is_modulated
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.settings.typed import FrozenBatchNorm
from filmvqa.system.errors import UserError, warn
from filmvqa.training.optimizer import belongs_to_module, check_module_names

#: Weights that the model or the checkpoint may lack: a table for a new task, and the counter of
#: batch norms, which torch before 0.4.1 did not have.
_OPTIONAL_WEIGHTS = ("film_generator.task_offset", "num_batches_tracked")
_EMBEDDING = "encoder.embedding.weight"
#: Modules whose last layer has one row per answer.
_CLASSIFIERS = ("classifier", "output")


def warm_start(
    model: nn.Module,
    name: str,
    path: str | Path,
    vocabulary: Vocabulary,
    *,
    new_words_std: float | None = None,
    feature_spec: Mapping[str, Any] | None = None,
    new_parts: Sequence[str] = (),
) -> tuple[int, int]:
    """Load the weights of a checkpoint whose vocabulary may differ from the model's.

    Rows of the word embedding are matched by word, rows of the classifier's last layer by answer.
    Answers that are new to the checkpoint keep their initial weights. Weights are converted to the
    model's floating-point type.

    Parameters
    ----------
    name
        The model's name, which must be the checkpoint's.
    vocabulary
        The vocabulary with which the model was built.
    new_words_std
        New words get embeddings from N(0, ``new_words_std``²); the original code uses 0.01
        (expand_embedding_vocab in vr/embedding.py). None keeps their initial embeddings.
    feature_spec
        The feature spec of the data. If the checkpoint's differs, a warning says so. None if it is
        not known.
    new_parts
        Parts of the model that the checkpoint may lack, as a network without language lacks a FiLM
        generator. They keep their initial weights, but a new FiLM generator starts at 0, so that
        the model first computes what the checkpoint's model does.

    Returns
    -------
    tuple of int
        The number of words that the checkpoint has, and the number of new words.

    Raises
    ------
    UserError
        If the checkpoint is of another model, its weights do not fit, or it was trained on another
        range of pixels.
    """
    content = load_checkpoint(path)
    if content["model"]["name"] != name:
        raise UserError(
            f"{path}: is a {content['model']['name']}, not a {name}; choose another train.init_from"
        )
    pixel_range = getattr(model, "pixel_range", "centered")
    old_pixel_range = content["model"]["kwargs"].get("pixel_range", "centered")
    if old_pixel_range != pixel_range:
        raise UserError(
            f"{path}: was trained with model.pixel_range={old_pixel_range}, not {pixel_range}; "
            f"give model.pixel_range={old_pixel_range}"
        )
    if changed := feature_differences(content, feature_spec):
        warn(f"{path}: was trained on features that were made differently ({'; '.join(changed)})")
    old_vocabulary = vocabulary_of(content, path)
    old_weights, weights = eval_weights(content), model.state_dict()
    lacking = [
        part for part in new_parts if not any(belongs_to_module(k, part) for k in old_weights)
    ]
    if unmatched := [k for k in old_weights.keys() ^ weights.keys()
                     if not k.endswith(_OPTIONAL_WEIGHTS)
                     and not any(belongs_to_module(k, part) for part in lacking)]:  # fmt: skip
        raise UserError(
            f"{path}: its weights do not fit this model (only one has {min(unmatched)})"
        )
    token_rows = {_EMBEDDING: (vocabulary.question, old_vocabulary.question)} | dict.fromkeys(
        _last_layer(weights), (vocabulary.answer, old_vocabulary.answer)
    )
    for key, weight in weights.items():
        if key not in old_weights:
            continue
        old_weight = old_weights[key].to(weight.dtype)
        index, old_index = token_rows.get(key, ({}, {}))
        if (
            key in token_rows
            and weight.shape[1:] == old_weight.shape[1:]
            and (len(weight), len(old_weight)) == (len(index), len(old_index))
        ):
            if key == _EMBEDDING and new_words_std is not None:
                new_words = [index[word] for word in sorted(index.keys() - old_index.keys())]
                weight[new_words] = new_words_std * torch.randn_like(weight[new_words])
            _copy_rows(weight, old_weight, index, old_index)
        elif weight.shape == old_weight.shape:
            weight.copy_(old_weight)
        else:
            raise UserError(
                f"{path}: its weights do not fit this model ({key} is "
                f"{tuple(old_weight.shape)} there, {tuple(weight.shape)} here)"
            )
    if is_modulated(model) and model.question_parts[-1] in lacking:
        model.begin_unmodulated()
    num_shared = len(vocabulary.question.keys() & old_vocabulary.question.keys())
    return num_shared, len(vocabulary.question) - num_shared


def _last_layer(weights: Mapping[str, Tensor]) -> list[str]:
    """The names of the weight and bias of the layer that computes the logits."""
    names = [name for name in weights if name.startswith(_CLASSIFIERS)]
    layer = names[-1].rpartition(".")[0] if names else None
    return [name for name in names if name.rpartition(".")[0] == layer]


def _copy_rows(
    weight: Tensor, old_weight: Tensor, index: dict[str, int], old_index: dict[str, int]
) -> None:
    """Copy the rows of tokens that both indices have; an index maps tokens to rows."""
    shared = sorted(index.keys() & old_index.keys())
    weight[[index[token] for token in shared]] = old_weight[[old_index[token] for token in shared]]


def freeze_except(model: nn.Module, module_names: Sequence[str] | None) -> None:
    """Freeze all parameters except those of the named modules; None freezes none.

    A name may also be that of a single parameter, such as ``film_generator.task_offset``.

    Raises
    ------
    UserError
        If the model has no part of one of the names.
    """
    if module_names is None:
        return
    check_module_names(model, module_names, "train.trainable")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(belongs_to_module(name, m) for m in module_names))


def training_mode(model: nn.Module, frozen_batch_norm: FrozenBatchNorm = "eval") -> None:
    """Set training mode, and evaluation mode for frozen parts.

    With ``frozen_batch_norm`` ``eval`` the batch norms of frozen parts keep their statistics; with
    ``train`` they normalise by each batch and update their statistics, as in the original code's
    CLEVR-Humans recipe.
    """
    model.train()
    for module in list(model.modules())[1:]:
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            module.eval()
    if frozen_batch_norm == "train":
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.train()


def count_weights(model: nn.Module) -> tuple[int, int]:
    """The number of weights of a model, and the number of its trainable weights."""
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    return sum(p.numel() for p in parameters), trained
