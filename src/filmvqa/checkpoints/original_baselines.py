"""Load baselines of the original FiLM code and of clevr-iep: LSTM, CNN+LSTM and CNN+LSTM+SA.

Their checkpoints have ``baseline_type``, ``baseline_kwargs`` and ``baseline_state``. The models are
equal in both projects (vr/models/baselines.py, iep/models/baselines.py).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from torch import Tensor

from filmvqa.checkpoints.original_file import (
    Count,
    Flag,
    OriginalModel,
    WeightReader,
    check_sizes,
    encoder_name,
    expected_weights,
    read_options,
    read_vocabulary,
)
from filmvqa.system.errors import UserError, printable

_NAMES = {"LSTM": "lstm", "CNN+LSTM": "cnn_lstm", "CNN+LSTM+SA": "cnn_lstm_sa"}
Shape = Annotated[tuple[int, ...], msgspec.Meta(min_length=3, max_length=3)]


class _LstmOptions(msgspec.Struct):
    rnn_wordvec_dim: int = 300
    rnn_dim: int = 256
    rnn_num_layers: Count = 2
    rnn_dropout: float = 0.0
    fc_dims: Annotated[tuple[int, ...], msgspec.Meta(max_length=1000)] = (1024,)
    fc_use_batchnorm: Flag = False
    fc_dropout: float = 0.0


class _CnnLstmOptions(_LstmOptions):
    cnn_feat_dim: Shape = (1024, 14, 14)
    cnn_res_block_dim: int = 128
    cnn_num_res_blocks: Count = 0
    cnn_proj_dim: int = 512
    cnn_pooling: str = "maxpool2"


class _CnnLstmSaOptions(_LstmOptions):
    cnn_feat_dim: Shape = (1024, 14, 14)
    stacked_attn_dim: int = 512
    num_stacked_attn: Count = 2


_OPTIONS: dict[str, type[_LstmOptions]] = {
    "LSTM": _LstmOptions, "CNN+LSTM": _CnnLstmOptions, "CNN+LSTM+SA": _CnnLstmSaOptions,
}  # fmt: skip


def read_baseline(content: dict[str, Any], path: str | Path) -> OriginalModel:
    """Convert the content of a baseline's checkpoint.

    Raises
    ------
    UserError
        If an option is not supported, or options, weights and vocabulary do not fit each other.
    """
    baseline = content["baseline_type"]
    if not isinstance(baseline, str) or baseline not in _NAMES:
        name = printable(repr(baseline))[:60]
        raise UserError(f"{path}: baseline_type={name} cannot be loaded; {', '.join(_NAMES)} can")
    options = read_options(content, "baseline_kwargs", _OPTIONS[baseline], ("vocab",), path)
    vocabulary = read_vocabulary(content, path)
    reader = WeightReader(content, "baseline_state", path)
    name = _NAMES[baseline]
    kwargs = _kwargs(options, content)
    expected = expected_weights(name, kwargs, vocabulary, path)
    output_layer = [key for key in expected if key.startswith("classifier.")][-1]
    check_sizes(reader.rows("rnn.embed.weight"), reader.rows(output_layer), vocabulary, path)
    weights = {
        key: reader.take(_original_name(key), _original_shape(key, value)).reshape(value.shape)
        for key, value in expected.items()
    }
    reader.refuse_rest()
    if name == "cnn_lstm":
        _put_image_first(weights, options.rnn_dim)
    return OriginalModel(name, kwargs, weights, vocabulary)


def _kwargs(options: _LstmOptions, content: dict[str, Any]) -> dict[str, Any]:
    """The options of our model, without the vocabulary's sizes."""
    kwargs: dict[str, Any] = {
        "embedding_dim": options.rnn_wordvec_dim,
        "hidden_dim": options.rnn_dim,
        "num_layers": options.rnn_num_layers,
        "layer_dropout": options.rnn_dropout,
        "classifier_dims": list(options.fc_dims),
        "classifier_norm": "all" if options.fc_use_batchnorm else "none",
        "classifier_dropout": options.fc_dropout,
    }
    if isinstance(options, _CnnLstmOptions):
        kwargs |= {
            "num_res_blocks": options.cnn_num_res_blocks,
            "res_block_dim": options.cnn_res_block_dim,
            "projection_dim": max(options.cnn_proj_dim, 0),
            # The original code takes any other name as no pooling.
            "pool": "maxpool2" if options.cnn_pooling == "maxpool2" else "none",
        }
    if isinstance(options, _CnnLstmSaOptions):
        kwargs |= {
            "attention_dim": options.stacked_attn_dim,
            "num_attentions": options.num_stacked_attn,
        }
    if isinstance(options, _CnnLstmOptions | _CnnLstmSaOptions):
        shape = list(options.cnn_feat_dim)
        if shape[0] == 3:
            kwargs["pixel_range"] = "unit"
        return kwargs | {"feature_shape": shape}
    return kwargs | {"feature_shape": _recorded_feature_shape(content)}


def _recorded_feature_shape(content: dict[str, Any]) -> list[int]:
    """The option --feature_dim of the training, or its default; an LSTM does not use it."""
    args = content.get("args")
    text = args.get("feature_dim") if isinstance(args, dict) else None
    try:
        shape = [int(side) for side in str(text).split(",")]
    except ValueError:
        shape = []
    return shape if len(shape) == 3 and min(shape) > 0 else [1024, 14, 14]


def _original_name(name: str) -> str:
    """The original name of a weight of ours; names of the classifier are equal."""
    part, _, rest = name.partition(".")
    if name == "encoder.embedding.weight":
        return "rnn.embed.weight"
    if part == "encoder":
        return f"rnn.rnn.{encoder_name(name)}"
    if part == "attentions":
        number, layer, parameter = rest.split(".")
        layer = {"image": "Wv", "query": "Wu", "attend": "Wp"}[layer]
        return f"stacked-attn-{number}.{layer}.{parameter}"
    if part == "cnn" and "." not in rest:  # the only convolution of CNN+LSTM+SA
        return f"image_proj.{rest}"
    return name.replace("norm1", "bn1").replace("norm2", "bn2") if part == "cnn" else name


def _original_shape(name: str, value: Tensor) -> tuple[int, ...]:
    """The original shape of a weight of ours: the original attention has 1×1 convolutions."""
    is_convolution = name.endswith(("image.weight", "attend.weight"))
    return (*value.shape, 1, 1) if is_convolution else tuple(value.shape)


def _put_image_first(weights: dict[str, Tensor], question_dim: int) -> None:
    """Reorder the classifier's inputs in place.

    The original code has the question's encoding before the image's features; ``CnnLSTM`` has it
    after them.
    """
    names = [name for name in weights if name.startswith("classifier.")]
    first_linear = next(name for name in names if weights[name].ndim == 2)
    inputs = [first_linear]
    # A batch norm of the input stands before the first linear layer.
    inputs += [n for n in names[: names.index(first_linear)] if weights[n].ndim == 1]
    for name in inputs:
        question, image = weights[name].tensor_split([question_dim], dim=-1)
        weights[name] = torch.cat([image, question], -1)
