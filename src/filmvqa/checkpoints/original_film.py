"""Load checkpoints of the original FiLM code (github.com/ethanjperez/film) as our models.

A loaded model computes the same γ, β and logits. A FiLM checkpoint has
``program_generator_kwargs`` and ``program_generator_state`` (question encoder and FiLM generator),
``execution_engine_kwargs`` and ``execution_engine_state`` (stem, blocks and classifier), and
``vocab``. Missing options have the defaults of the original classes. Baselines of the same code
are loaded too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from torch import Tensor, nn

from filmvqa.checkpoints.original_baselines import read_baseline
from filmvqa.checkpoints.original_file import (
    Count,
    Flag,
    OriginalModel,
    WeightReader,
    check_sizes,
    encoder_name,
    expected_weights,
    read_content,
    read_options,
    read_vocabulary,
)
from filmvqa.models import build_model
from filmvqa.models.classifier import ORIGINAL_POOLS
from filmvqa.system.errors import UserError


class _Generator(msgspec.Struct):
    """Options of the original FiLMGen."""

    encoder_vocab_size: int = 100
    wordvec_dim: int = 200
    hidden_dim: int = 512
    rnn_num_layers: Count = 1
    rnn_dropout: float = 0.0
    output_batchnorm: Flag = False
    bidirectional: Flag = False
    encoder_type: str = "gru"
    decoder_type: str = "linear"
    gamma_option: str = "linear"
    gamma_baseline: float = 1.0
    num_modules: Count = 4
    module_num_layers: int = 1
    module_dim: int = 128
    parameter_efficient: Flag = False
    null_token: int = 0


class _Engine(msgspec.Struct):
    """Options of the original FiLMedNet."""

    feature_dim: Annotated[tuple[int, ...], msgspec.Meta(min_length=3, max_length=3)] = (
        1024, 14, 14,
    )  # fmt: skip
    stem_num_layers: Count = 2
    stem_batchnorm: Flag = False
    stem_kernel_size: int = 3
    stem_stride: int = 1
    stem_padding: int | None = None
    num_modules: Count = 4
    module_num_layers: int = 1
    module_dim: int = 128
    module_residual: Flag = True
    module_batchnorm: Flag = False
    module_batchnorm_affine: Flag = False
    module_dropout: float = 0.0
    module_input_proj: Flag = 1
    module_kernel_size: int = 3
    classifier_proj_dim: int | None = 512
    classifier_downsample: str = "maxpool2"
    classifier_fc_layers: Annotated[tuple[int, ...], msgspec.Meta(max_length=1000)] = (1024,)
    classifier_batchnorm: Flag = False
    classifier_dropout: float = 0.0
    condition_method: str = "bn-film"
    condition_pattern: tuple[Flag, ...] | None = ()
    use_gamma: Flag = True
    use_beta: Flag = True
    use_coords: Flag = 1


#: Options without an effect on the computation.
_IGNORED = ("decoder_vocab_size", "start_token", "end_token", "encoder_embed", "debug_every",
            "print_verbose_every", "verbose", "vocab")  # fmt: skip
_FILM_POSITIONS = {
    "block-input-film": "before_conv1", "conv-film": "after_conv2", "bn-film": "after_norm",
    "relu-film": "after_relu2", "block-output-film": "after_residual", "concat": "after_norm",
    # Names of older versions, which the original code still accepts.
    "block-input-fac": "before_conv1", "conv-fac": "after_conv2", "cbn": "after_norm",
    "relu-fac": "after_relu2", "block-output-fac": "after_residual",
}  # fmt: skip
_COORDINATES = ("none", "inputs", "everywhere")


def load_original_film(path: str | Path) -> tuple[nn.Module, dict[str, dict[str, int]]]:
    """Load a checkpoint of the original code, FiLM or a baseline, in evaluation mode.

    A bidirectional encoder reads padding, as in the original code. Its questions must be padded to
    the same length as in training.

    Returns
    -------
    tuple
        The model, and the vocabulary in the format of ``vocab.json``.

    Raises
    ------
    UserError
        If the file is missing or not such a checkpoint, or an option is not supported.
    """
    original = read_original_film(path)
    model = build_model(original.name, **original.kwargs)
    model.load_state_dict(original.weights)
    maps = original.vocabulary.to_dict()
    return model.eval(), {f"{name}_token_to_idx": dict(index) for name, index in maps.items()}


def read_original_film(path: str | Path) -> OriginalModel:
    """Read a checkpoint of the original code, and check its options, weights and vocabulary.

    Raises
    ------
    UserError
        If the file is missing or not such a checkpoint, an option is not supported, or options,
        weights and vocabulary do not fit each other.
    """
    content = read_content(path)
    if content.get("baseline_type") is not None:
        return read_baseline(content, path)
    _refuse_programs(content, path)
    generator = read_options(content, "program_generator_kwargs", _Generator, _IGNORED, path)
    engine = read_options(content, "execution_engine_kwargs", _Engine, _IGNORED, path)
    _refuse(generator, engine, path)
    vocabulary = read_vocabulary(content, path)
    kwargs = _kwargs(generator, engine)
    expected = expected_weights("film", kwargs, vocabulary, path)
    language = WeightReader(content, "program_generator_state", path)
    vision = WeightReader(content, "execution_engine_state", path)
    output_layer = [key for key in expected if key.startswith("classifier.")][-1]
    check_sizes(
        language.rows("encoder_embed.weight"),
        vision.rows(_engine_name(output_layer, engine)),
        vocabulary,
        path,
    )
    weights = {}
    for key, value in expected.items():
        part = key.partition(".")[0]
        if part == "film_generator":
            weights[key] = _decoder_weight(key, value, language, generator, kwargs)
        elif part == "encoder":
            name = "encoder_embed.weight"
            if key != "encoder.embedding.weight":
                name = f"encoder_rnn.{encoder_name(key)}"
            weights[key] = language.take(name, value.shape)
        else:
            weights[key] = vision.take(_engine_name(key, engine), value.shape)
    # The decoder is unused if no block is conditioned; its batch norm is unused if it is linear.
    language.refuse_rest(("decoder_", "output_bn."))
    vision.refuse_rest()
    return OriginalModel("film", kwargs, weights, vocabulary)


def _refuse_programs(content: dict[str, Any], path: str | Path) -> None:
    """Raise ``UserError`` for a checkpoint of clevr-iep's program models."""
    args = content.get("args")
    model_type = args.get("model_type") if isinstance(args, dict) else None
    if isinstance(model_type, str) and model_type in ("PG", "EE", "PG+EE"):
        raise UserError(
            f"{path}: model_type {model_type!r} (program generator, execution engine) cannot be "
            "loaded; FiLM, LSTM, CNN+LSTM and CNN+LSTM+SA can"
        )


def _refuse(generator: _Generator, engine: _Engine, path: str | Path) -> None:
    """Raise ``UserError`` for options that ``FilmNet`` or the original code does not support."""
    recurrent = generator.decoder_type in ("gru", "lstm")
    blocks = engine.num_modules
    pattern = len(engine.condition_pattern or ())
    unsupported = {
        "condition_method": engine.condition_method not in _FILM_POSITIONS,
        "condition_pattern": pattern not in (0, blocks),
        "classifier_downsample": engine.classifier_downsample not in ORIGINAL_POOLS,
        "use_coords": engine.use_coords not in (0, 1, 2),
        "module_num_layers": engine.module_num_layers != 1,
        "module_kernel_size": engine.module_kernel_size % 2 == 0,
        "gamma_option": generator.gamma_option not in ("linear", "sigmoid", "tanh", "exp"),
        "encoder_type": generator.encoder_type not in ("gru", "lstm"),
        "null_token": generator.null_token != 0,
        # The original's recurrent decoder has a wrong output width for more than one block.
        "decoder_type": generator.decoder_type != "linear" and not (recurrent and blocks == 1),
        "output_batchnorm": recurrent and bool(generator.output_batchnorm),
        "num_modules": generator.num_modules != blocks,
        "module_dim": generator.module_dim != engine.module_dim,
    }
    for name, is_unsupported in unsupported.items():
        if is_unsupported:
            values = [getattr(o, name) for o in (engine, generator) if hasattr(o, name)]
            values = [list(v) if isinstance(v, tuple) else v for v in values]
            options = " and ".join(dict.fromkeys(f"{name}={value!r}" for value in values))
            raise UserError(f"{path}: {options} cannot be loaded")


def _kwargs(generator: _Generator, engine: _Engine) -> dict[str, Any]:
    """The options of ``FilmNet``, without the vocabulary's sizes."""
    concat = engine.condition_method == "concat"
    blocks, stride = engine.num_modules, engine.stem_stride
    pattern = engine.condition_pattern or [not concat] * blocks
    recurrent = generator.decoder_type != "linear"
    kwargs: dict[str, Any] = {
        "feature_shape": list(engine.feature_dim),
        "channels": engine.module_dim,
        "num_blocks": blocks,
        "film_blocks": [flag > 0 for flag in pattern],
        "coordinates": _COORDINATES[engine.use_coords],
        "encoder": {
            "embedding_dim": generator.wordvec_dim,
            "hidden_dim": generator.hidden_dim,
            "num_layers": generator.rnn_num_layers,
            "cell": generator.encoder_type,
            "bidirectional": bool(generator.bidirectional),
            "padded_length": 0 if generator.bidirectional else None,
            "layer_dropout": generator.rnn_dropout,
        },
        "generator": {
            "decoder": generator.decoder_type,
            "hidden_dims": [generator.hidden_dim] * generator.rnn_num_layers * recurrent,
            "gamma": generator.gamma_option if concat or engine.use_gamma else "one",
            "beta": "linear" if concat or engine.use_beta else "zero",
            "gamma_baseline": generator.gamma_baseline,
        },
        "stem": {
            "strides": [stride] * engine.stem_num_layers,
            "kernel_size": engine.stem_kernel_size,
            "padding": engine.stem_padding,
            "norm": bool(engine.stem_batchnorm),
            "coordinates": stride == 1 and engine.use_coords > 0,
        },
        "block": {
            "conditioning": "concat" if concat else "film",
            "film_position": _FILM_POSITIONS[engine.condition_method],
            "input_proj_kernel": int(engine.module_input_proj),
            "kernel_size": engine.module_kernel_size,
            "residual": bool(engine.module_residual),
            "norm": bool(engine.module_batchnorm),
            "norm_affine": bool(engine.module_batchnorm_affine),
            "dropout": engine.module_dropout,
        },
        "classifier": {
            "projection_dim": engine.classifier_proj_dim or 0,
            "pool": engine.classifier_downsample,
            "hidden_dims": list(engine.classifier_fc_layers),
            "norm": bool(engine.classifier_batchnorm),
            "dropout": engine.classifier_dropout,
        },
    }
    if engine.feature_dim[0] == 3:  # the original stores pixels in [0, 1]
        kwargs["pixel_range"] = "unit"
    return kwargs


def _engine_name(name: str, engine: _Engine) -> str:
    """The original name of a weight of the stem, a block or the classifier."""
    part, _, rest = name.partition(".")
    if part == "stem":
        return f"stem.{rest.removeprefix('layers.')}"
    if part != "classifier":
        number, layer, parameter = rest.split(".")
        layer = {"project": "input_proj", "conv": "conv1", "norm": "bn1"}[layer]
        return f"{number}.{layer}.{parameter}"
    # The original classifier has one list of layers; ``Classifier`` has two.
    layers, number, parameter = rest.split(".")
    if layers == "project":
        return f"classifier.{number}.{parameter}"
    num_proj = (2 + bool(engine.classifier_batchnorm)) * bool(engine.classifier_proj_dim)
    num_pool = {"none": 0, "aggressive": 2}.get(engine.classifier_downsample, 1)
    first_linear = num_proj + num_pool + 1  # + 1: the flattening layer
    return f"classifier.{first_linear + int(number)}.{parameter}"


def _decoder_weight(
    name: str, value: Tensor, state: WeightReader, generator: _Generator, kwargs: dict[str, Any]
) -> Tensor:
    """Take a weight of the FiLM generator; ``value`` has the shape of ours.

    The original output layer computes γ and β of all blocks, and further numbers in older versions.
    Ours computes only those that are used.
    """
    rest = name.removeprefix("film_generator.decoder.")
    if rest.startswith("rnn."):
        return state.take(f"decoder_{rest}", value.shape)
    channels, blocks = kwargs["channels"], kwargs["num_blocks"]
    width = 2 * channels if generator.parameter_efficient else 4 * channels + 2 * blocks
    parameter = name.rpartition(".")[2]
    whole = state.take(f"decoder_linear.{parameter}", (blocks * width, *value.shape[1:]))
    concat = kwargs["block"]["conditioning"] == "concat"
    conditioned = torch.tensor([flag or concat for flag in kwargs["film_blocks"]])
    rows = whole.view(blocks, width, *value.shape[1:])[conditioned]
    kept = []
    if kwargs["generator"]["gamma"] != "one":
        kept.append(rows[:, :channels])
    if kwargs["generator"]["beta"] != "zero":
        kept.append(rows[:, channels : 2 * channels])
    film_rows = torch.cat(kept, 1) if kept else rows[:, :0]
    return film_rows.flatten(0, 1).clone()
