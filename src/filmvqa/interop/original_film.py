"""Checkpoints of the original FiLM code (github.com/ethanjperez/film) as models of this package.

A loaded model computes the same γ, β and logits. A checkpoint is a dictionary with
``program_generator_kwargs`` and ``program_generator_state`` (question encoder and FiLM generator),
``execution_engine_kwargs`` and ``execution_engine_state`` (stem, blocks and classifier), and
``vocab``. Options that it lacks have the defaults of the original's classes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from filmvqa.errors import UserError, one_line
from filmvqa.models import build_model
from filmvqa.models.vision import POOLS

_GENERATOR_DEFAULTS: dict[str, Any] = {
    "encoder_vocab_size": 100, "wordvec_dim": 200, "hidden_dim": 512, "rnn_num_layers": 1,
    "rnn_dropout": 0, "output_batchnorm": False, "bidirectional": False, "encoder_type": "gru",
    "decoder_type": "linear", "gamma_option": "linear", "gamma_baseline": 1, "num_modules": 4,
    "module_num_layers": 1, "module_dim": 128, "parameter_efficient": False, "null_token": 0,
}  # fmt: skip
_ENGINE_DEFAULTS: dict[str, Any] = {
    "feature_dim": (1024, 14, 14), "stem_num_layers": 2, "stem_batchnorm": False,
    "stem_kernel_size": 3, "stem_stride": 1, "stem_padding": None, "num_modules": 4,
    "module_num_layers": 1, "module_dim": 128, "module_residual": True,
    "module_batchnorm": False, "module_batchnorm_affine": False, "module_dropout": 0,
    "module_input_proj": 1, "module_kernel_size": 3, "classifier_proj_dim": 512,
    "classifier_downsample": "maxpool2", "classifier_fc_layers": (1024,),
    "classifier_batchnorm": False, "classifier_dropout": 0, "condition_method": "bn-film",
    "condition_pattern": (), "use_gamma": True, "use_beta": True, "use_coords": 1,
}  # fmt: skip
#: Options that do not change what the network computes.
_IGNORED = ("decoder_vocab_size", "start_token", "end_token", "encoder_embed", "debug_every",
            "print_verbose_every", "verbose", "vocab")  # fmt: skip
_FILM_POSITIONS = {
    "block-input-film": "before_conv1", "conv-film": "after_conv2", "bn-film": "after_norm",
    "relu-film": "after_relu2", "block-output-film": "after_residual", "concat": "after_norm",
    # Names in older versions of the original code, which it still accepts.
    "block-input-fac": "before_conv1", "conv-fac": "after_conv2", "cbn": "after_norm",
    "relu-fac": "after_relu2", "block-output-fac": "after_residual",
}  # fmt: skip
_COORDINATES = ("none", "inputs", "everywhere")


@dataclass(frozen=True)
class OriginalFilm:
    """A checkpoint of the original code, translated.

    Attributes
    ----------
    kwargs
        Options of ``FilmNet``.
    weights
        State dictionary of that ``FilmNet``.
    vocabulary
        The three maps of ``vocab.json``.
    """

    kwargs: dict[str, Any]
    weights: dict[str, Tensor]
    vocabulary: dict[str, dict[str, int]]


def load_original_film(path: str | Path) -> tuple[nn.Module, dict[str, dict[str, int]]]:
    """Load a checkpoint of the original code as a ``FilmNet`` in evaluation mode.

    A bidirectional encoder reads padding, as in the original code: questions must be padded to the
    length that they had in training.

    Returns
    -------
    tuple
        The model, and the vocabulary in the format of ``vocab.json``.

    Raises
    ------
    UserError
        If the file is missing or no such checkpoint, or an option is not supported.
    """
    original = read_original_film(path)
    model = build_model("film", **original.kwargs)
    model.load_state_dict(original.weights)
    return model.eval(), original.vocabulary


def read_original_film(path: str | Path) -> OriginalFilm:
    """Read a checkpoint of the original code; options, weights and vocabulary are checked.

    Raises
    ------
    UserError
        If the file is missing or no such checkpoint, an option is not supported, or options,
        weights and vocabulary do not fit each other.
    """
    content = _read(path)
    generator = _options(content, "program_generator", _GENERATOR_DEFAULTS, path)
    engine = _options(content, "execution_engine", _ENGINE_DEFAULTS, path)
    _refuse(generator, engine, path)
    kwargs = _kwargs(generator, engine)
    try:
        vocabulary = {
            key: dict(content["vocab"][key])
            for key in ("question_token_to_idx", "program_token_to_idx", "answer_token_to_idx")
        }
        weights = _weights(content, generator, engine, kwargs)
    except (KeyError, RuntimeError, TypeError) as error:
        raise UserError(f"{path}: lacks {one_line(error)}, which its options ask for") from None
    output_layer = max((k for k in weights if k.startswith("classifier.mlp.")), key=_layer_number)
    vocab_size, num_answers = len(weights["encoder.embedding.weight"]), len(weights[output_layer])
    words, answers = vocabulary["question_token_to_idx"], vocabulary["answer_token_to_idx"]
    if (vocab_size, num_answers) != (len(words), len(answers)):
        raise UserError(
            f"{path}: its vocabulary has {len(words)} words and {len(answers)} answers, its "
            f"weights {vocab_size} and {num_answers}"
        )
    kwargs |= {"vocab_size": vocab_size, "num_answers": num_answers}
    try:
        with torch.device("meta"):
            build_model("film", **kwargs).load_state_dict(weights, assign=True)
    except (UserError, RuntimeError) as error:
        raise UserError(f"{path}: its weights do not fit its options ({one_line(error)})") from None
    return OriginalFilm(kwargs, weights, vocabulary)


def _read(path: str | Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except Exception as error:  # torch raises errors of many types for a broken file
        raise UserError(f"{path}: not a readable checkpoint ({one_line(error, 120)})") from None
    keys = [f"{side}_{entry}" for side in ("program_generator", "execution_engine")
            for entry in ("kwargs", "state")]  # fmt: skip
    if not isinstance(content, dict) or not all(
        isinstance(content.get(key), dict) for key in (*keys, "vocab")
    ):
        raise UserError(f"{path}: not a FiLM checkpoint of the original code")
    return content


def _options(
    content: dict[str, Any], side: str, defaults: dict[str, Any], path: str | Path
) -> dict[str, Any]:
    given = {k: v for k, v in content[f"{side}_kwargs"].items() if k not in _IGNORED}
    if unknown := sorted(given.keys() - defaults.keys()):
        raise UserError(f"{path}: {side}_kwargs has {unknown[0]!r}, which FiLM's code does not")
    return defaults | given


def _refuse(generator: dict[str, Any], engine: dict[str, Any], path: str | Path) -> None:
    """Raise ``UserError`` for an option that ``FilmNet`` or the original code does not support."""
    recurrent = generator["decoder_type"] in ("gru", "lstm")
    blocks = engine["num_modules"]
    pattern = len(engine["condition_pattern"] or ())
    unsupported = {
        "condition_method": engine["condition_method"] not in _FILM_POSITIONS,
        "condition_pattern": pattern not in (0, blocks),
        "classifier_downsample": engine["classifier_downsample"] not in POOLS,
        "use_coords": engine["use_coords"] not in (0, 1, 2),
        "module_num_layers": engine["module_num_layers"] != 1,
        "module_kernel_size": engine["module_kernel_size"] % 2 == 0,
        "gamma_option": generator["gamma_option"] not in ("linear", "sigmoid", "tanh", "exp"),
        "encoder_type": generator["encoder_type"] not in ("gru", "lstm"),
        "null_token": generator["null_token"] != 0,
        # The original's recurrent decoder has an output of a wrong width for more than one block.
        "decoder_type": generator["decoder_type"] != "linear" and not (recurrent and blocks == 1),
        "output_batchnorm": recurrent and generator["output_batchnorm"],
        "num_modules": generator["num_modules"] != blocks,
        "module_dim": generator["module_dim"] != engine["module_dim"],
    }
    for name, is_unsupported in unsupported.items():
        if is_unsupported:
            value = engine.get(name, generator.get(name))
            raise UserError(f"{path}: {name}={value!r} cannot be loaded")


def _kwargs(generator: dict[str, Any], engine: dict[str, Any]) -> dict[str, Any]:
    """Options of ``FilmNet``, from those of the original."""
    concat = engine["condition_method"] == "concat"
    blocks, stride = engine["num_modules"], engine["stem_stride"]
    pattern = engine["condition_pattern"] or [not concat] * blocks
    recurrent = generator["decoder_type"] != "linear"
    return {
        "feature_shape": list(engine["feature_dim"]),
        "channels": engine["module_dim"],
        "num_blocks": blocks,
        "film_blocks": [flag > 0 for flag in pattern],
        "coordinates": _COORDINATES[engine["use_coords"]],
        "encoder": {
            "embedding_dim": generator["wordvec_dim"],
            "hidden_dim": generator["hidden_dim"],
            "num_layers": generator["rnn_num_layers"],
            "cell": generator["encoder_type"],
            "bidirectional": bool(generator["bidirectional"]),
            "padded_length": 0 if generator["bidirectional"] else None,
            "layer_dropout": float(generator["rnn_dropout"]),
        },
        "generator": {
            "decoder": generator["decoder_type"],
            "hidden_dims": [generator["hidden_dim"]] * generator["rnn_num_layers"] * recurrent,
            "gamma": generator["gamma_option"] if concat or engine["use_gamma"] else "one",
            "beta": "linear" if concat or engine["use_beta"] else "zero",
            "gamma_baseline": float(generator["gamma_baseline"]),
        },
        "stem": {
            "strides": [stride] * engine["stem_num_layers"],
            "kernel_size": engine["stem_kernel_size"],
            "padding": engine["stem_padding"],
            "norm": bool(engine["stem_batchnorm"]),
            "coordinates": stride == 1 and engine["use_coords"] > 0,
        },
        "block": {
            "conditioning": "concat" if concat else "film",
            "film_position": _FILM_POSITIONS[engine["condition_method"]],
            "input_proj_kernel": int(engine["module_input_proj"]),
            "kernel_size": engine["module_kernel_size"],
            "residual": bool(engine["module_residual"]),
            "norm": bool(engine["module_batchnorm"]),
            "norm_affine": bool(engine["module_batchnorm_affine"]),
            "dropout": float(engine["module_dropout"]),
        },
        "classifier": {
            "projection_dim": engine["classifier_proj_dim"] or 0,
            "pool": engine["classifier_downsample"],
            "hidden_dims": list(engine["classifier_fc_layers"]),
            "norm": bool(engine["classifier_batchnorm"]),
            "dropout": float(engine["classifier_dropout"]),
        },
    }


def _weights(
    content: dict[str, Any],
    generator: dict[str, Any],
    engine: dict[str, Any],
    kwargs: dict[str, Any],
) -> dict[str, Tensor]:
    """State dictionary of ``FilmNet``, from the original's two."""
    state = content["program_generator_state"]
    return {
        **_engine_weights(content["execution_engine_state"], engine),
        **_encoder_weights(state, generator),
        **_decoder_weights(state, generator, kwargs),
    }


def _engine_weights(state: dict[str, Tensor], engine: dict[str, Any]) -> dict[str, Tensor]:
    """Weights of stem, blocks and classifier."""
    weights = {}
    for name, value in state.items():
        part, _, rest = name.partition(".")  # a block's part is its number
        if part == "stem":
            weights[f"stem.layers.{rest}"] = value
        elif part == "classifier":
            weights[_classifier_name(rest, engine)] = value
        else:
            for old, new in (("input_proj", "project"), ("conv1", "conv"), ("bn1", "norm")):
                rest = rest.replace(old, new)
            weights[f"blocks.{part}.{rest}"] = value
    return weights


def _encoder_weights(state: dict[str, Tensor], generator: dict[str, Any]) -> dict[str, Tensor]:
    """Weights of the question encoder."""
    weights = {"encoder.embedding.weight": state["encoder_embed.weight"]}
    suffixes = ("", "_reverse") if generator["bidirectional"] else ("",)
    for i in range(generator["rnn_num_layers"]):
        for direction, suffix in enumerate(suffixes):
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                ours = f"encoder.layers.{i}.{direction}.{name}_l0"
                weights[ours] = state[f"encoder_rnn.{name}_l{i}{suffix}"]
    return weights


def _decoder_weights(
    state: dict[str, Tensor], generator: dict[str, Any], kwargs: dict[str, Any]
) -> dict[str, Tensor]:
    """Weights of the FiLM generator's decoder; none if no block is conditioned."""
    concat = kwargs["block"]["conditioning"] == "concat"
    conditioned_blocks = [flag or concat for flag in kwargs["film_blocks"]]
    if not any(conditioned_blocks):
        return {}
    recurrent = generator["decoder_type"] != "linear"
    output_layer = "film_generator.decoder." + ("linear" if recurrent else "0")
    weights = {
        f"{output_layer}.{name}": _film_rows(
            state[f"decoder_linear.{name}"], kwargs, conditioned_blocks
        )
        for name in ("weight", "bias")
    }
    if recurrent:
        for name, value in state.items():
            if name.startswith("decoder_rnn."):
                weights[f"film_generator.decoder.{name.removeprefix('decoder_')}"] = value
    return weights


def _film_rows(value: Tensor, kwargs: dict[str, Any], conditioned_blocks: list[bool]) -> Tensor:
    """Those rows of a decoder's weight or bias that compute a γ or β of a conditioned block.

    The original computes γ and β of all blocks, and in older versions further numbers.
    """
    channels, blocks = kwargs["channels"], kwargs["num_blocks"]
    rows = value.view(blocks, -1, *value.shape[1:])[torch.tensor(conditioned_blocks)]
    kept_rows = []
    if kwargs["generator"]["gamma"] != "one":
        kept_rows.append(rows[:, :channels])
    if kwargs["generator"]["beta"] != "zero":
        kept_rows.append(rows[:, channels : 2 * channels])
    film_rows = torch.cat(kept_rows, 1) if kept_rows else rows[:, :0]
    return film_rows.flatten(0, 1).clone()


def _classifier_name(name: str, engine: dict[str, Any]) -> str:
    """Name of a classifier's parameter, from the original's ``<number>.<parameter>``.

    The original has one list of layers, ``Classifier`` has two.
    """
    number, _, parameter = name.partition(".")
    num_proj = (2 + bool(engine["classifier_batchnorm"])) * bool(engine["classifier_proj_dim"])
    num_pool = {"none": 0, "aggressive": 2}.get(engine["classifier_downsample"], 1)
    if int(number) < num_proj:
        return f"classifier.project.{name}"
    first_linear = num_proj + num_pool + 1  # + 1: the flattening layer
    return f"classifier.mlp.{int(number) - first_linear}.{parameter}"


def _layer_number(name: str) -> int:
    return int(name.split(".")[2])
