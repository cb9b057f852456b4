"""Transfer learning: training from another run's weights, and of some modules only."""

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

#: Weights that only one of the model and the checkpoint may have: a table for a new task, and the
#: counter of batch norms, which torch has from 0.4.1 on.
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
    """Load the weights of a checkpoint whose vocabulary may differ from that of the model.

    Rows of the word embedding and of the classifier's last layer are matched by word and by answer.
    Rows of answers that the checkpoint does not have keep their initial weights. Weights of another
    floating-point type are converted.

    Parameters
    ----------
    name
        The model's name; the checkpoint must have the same.
    vocabulary
        The vocabulary that the model was built with.
    new_words_std
        Embeddings of words that the checkpoint does not have begin as N(0, ``new_words_std``²), in
        the original code with 0.01 (expand_embedding_vocab in vr/embedding.py); None: they keep
        their initial weights.
    feature_spec
        How the features were made that the model is to read, to warn where the checkpoint's were
        made otherwise; None: not known.
    new_parts
        Parts of the model that the checkpoint's may lack, as a network without language lacks a
        FiLM generator. They keep their initial weights; a FiLM generator begins at 0, so that the
        model begins as the checkpoint's.

    Returns
    -------
    tuple of int
        The number of words that the checkpoint has, and the number of new words.

    Raises
    ------
    UserError
        If the checkpoint is of another model, if its weights do not fit this one, or if it was
        trained on another range of pixels.
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
        warn(f"{path}: was trained on features that were made otherwise ({'; '.join(changed)})")
    old_vocabulary = vocabulary_of(content, path)
    old_weights, weights = eval_weights(content), model.state_dict()
    lacking = [
        part for part in new_parts if not any(belongs_to_module(k, part) for k in old_weights)
    ]
    unmatched = [
        k
        for k in old_weights.keys() ^ weights.keys()
        if not k.endswith(_OPTIONAL_WEIGHTS)
        and not any(belongs_to_module(k, part) for part in lacking)
    ]
    if unmatched:
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
    """The names of the weight and the bias of the layer that computes the logits."""
    names = [name for name in weights if name.startswith(_CLASSIFIERS)]
    layer = names[-1].rpartition(".")[0] if names else None
    return [name for name in names if name.rpartition(".")[0] == layer]


def _copy_rows(
    weight: Tensor, old_weight: Tensor, index: dict[str, int], old_index: dict[str, int]
) -> None:
    """Copy the rows of the tokens that both indices have; they map tokens to rows."""
    shared = sorted(index.keys() & old_index.keys())
    weight[[index[token] for token in shared]] = old_weight[[old_index[token] for token in shared]]


def freeze_except(model: nn.Module, module_names: Sequence[str] | None) -> None:
    """Freeze all parameters except those of the named modules; None freezes none.

    ``module_names`` may also have names of single parameters, as ``film_generator.task_offset``.

    Raises
    ------
    UserError
        For a name that the model does not have.
    """
    if module_names is None:
        return
    check_module_names(model, module_names, "train.trainable")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(any(belongs_to_module(name, m) for m in module_names))


def training_mode(model: nn.Module, frozen_batch_norm: FrozenBatchNorm = "eval") -> None:
    """Set training mode, except in frozen parts.

    With ``frozen_batch_norm`` ``eval`` their batch norms keep their statistics; with ``train`` they
    normalise by each batch and go on estimating, as in the original code's CLEVR-Humans recipe.
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
    """The number of all weights of a model, and the number of those that are trained."""
    parameters = list(model.parameters())
    trained = sum(p.numel() for p in parameters if p.requires_grad)
    return sum(p.numel() for p in parameters), trained
