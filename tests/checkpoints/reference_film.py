"""A reference implementation of the original FiLM code, independent of the package.

``checkpoint`` makes a file's content with random weights; ``run`` computes its γ, β and logits.
Shapes and orders are those of the original state dictionaries.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

WORDS, ANSWERS = 15, 9
GENERATOR = {
    "encoder_vocab_size": WORDS, "decoder_vocab_size": 44, "wordvec_dim": 6, "hidden_dim": 8,
    "rnn_num_layers": 1, "rnn_dropout": 0, "parameter_efficient": True,
    "output_batchnorm": False, "bidirectional": False, "encoder_type": "gru",
    "decoder_type": "linear", "gamma_option": "linear", "gamma_baseline": 1, "num_modules": 3,
    "module_num_layers": 1, "module_dim": 4, "debug_every": float("inf"),
}  # fmt: skip
ENGINE = {
    "feature_dim": (5, 6, 6), "stem_num_layers": 1, "stem_batchnorm": True,
    "stem_kernel_size": 3, "stem_stride": 1, "stem_padding": None, "num_modules": 3,
    "module_num_layers": 1, "module_dim": 4, "module_residual": True, "module_batchnorm": True,
    "module_batchnorm_affine": False, "module_dropout": 0, "module_input_proj": 1,
    "module_kernel_size": 3, "classifier_proj_dim": 7, "classifier_downsample": "maxpoolfull",
    "classifier_fc_layers": (10,), "classifier_batchnorm": True, "classifier_dropout": 0,
    "condition_method": "bn-film", "condition_pattern": [], "use_gamma": True,
    "use_beta": True, "use_coords": 1, "debug_every": float("inf"),
}  # fmt: skip


def coordinates(x: Tensor) -> Tensor:
    """(N, 2, H, W): x and y from -1 to 1."""
    n, _, h, w = x.shape
    xs = torch.linspace(-1, 1, w).expand(h, w)
    ys = torch.linspace(-1, 1, h)[:, None].expand(h, w)
    return torch.stack([xs, ys]).expand(n, 2, h, w)


class Weights:
    """Random weights by name, created at their first use."""

    def __init__(self, state: dict[str, Tensor] | None = None) -> None:
        self.making = state is None
        self.state: dict[str, Tensor] = {} if state is None else state

    def __call__(self, name: str, *shape: int, positive: bool = False) -> Tensor:
        if self.making:
            value = torch.randn(shape) / math.sqrt(max(math.prod(shape[1:]), 1))
            self.state[name] = value.abs() + 0.5 if positive else value
        return self.state[name]

    def conv(self, x: Tensor, name: str, outputs: int, k: int, stride: int, padding: int) -> Tensor:
        weight = self(f"{name}.weight", outputs, x.shape[1], k, k)
        return F.conv2d(x, weight, self(f"{name}.bias", outputs), stride, padding)

    def linear(self, x: Tensor, name: str, outputs: int) -> Tensor:
        weight = self(f"{name}.weight", outputs, x.shape[1])
        return F.linear(x, weight, self(f"{name}.bias", outputs))

    def norm(self, x: Tensor, name: str, affine: bool = True) -> Tensor:
        width = x.shape[1]
        mean = self(f"{name}.running_mean", width)
        var = self(f"{name}.running_var", width, positive=True)
        scale, shift = (
            (self(f"{name}.weight", width), self(f"{name}.bias", width))
            if affine else (None, None)
        )  # fmt: skip
        if self.making:
            self.state[f"{name}.num_batches_tracked"] = torch.tensor(1)
        return F.batch_norm(x, mean, var, scale, shift)


def vocabulary() -> dict[str, dict[str, int]]:
    """A file's ``vocab``."""
    sizes = {"question": WORDS, "program": 6, "answer": ANSWERS}
    return {
        f"{name}_token_to_idx": {
            token: i for i, token in enumerate(
                ["<NULL>", "<START>", "<END>", "<UNK>", *(f"t{j}" for j in range(4, count))])
        } for name, count in sizes.items()
    }  # fmt: skip


def checkpoint(**options: Any) -> dict[str, Any]:
    """Make the content of a file with these options and random weights."""
    generator = {k: options.get(k, v) for k, v in GENERATOR.items()}
    engine = {k: options.get(k, v) for k, v in ENGINE.items()}
    assert set(options) <= GENERATOR.keys() | ENGINE.keys()
    content = {
        "program_generator_kwargs": generator, "execution_engine_kwargs": engine,
        "vocab": vocabulary(), "args": {}, "best_val_acc": 0.5,
    }  # fmt: skip
    language, vision = Weights(), Weights()
    questions = torch.ones(1, 5, dtype=torch.int64)
    film = modulate(generator, language, questions)
    see(engine, vision, film, torch.randn(1, *engine["feature_dim"]))
    content["program_generator_state"] = language.state
    content["execution_engine_state"] = vision.state
    return content


def run(content: dict[str, Any], features: Tensor, questions: Tensor) -> tuple[Tensor, Tensor]:
    """Compute γ and β (B, modules, 2 × dim), and logits."""
    film = modulate(
        content["program_generator_kwargs"], Weights(content["program_generator_state"]), questions
    )
    engine = content["execution_engine_kwargs"]
    return film, see(engine, Weights(content["execution_engine_state"]), film, features)


def modulate(o: dict[str, Any], weights: Weights, questions: Tensor) -> Tensor:
    directions = 2 if o["bidirectional"] else 1
    width = o["hidden_dim"] // directions
    rnn_type = {"gru": nn.GRU, "lstm": nn.LSTM}[o["encoder_type"]]
    rnn = rnn_type(o["wordvec_dim"], width, o["rnn_num_layers"], batch_first=True,
               bidirectional=bool(o["bidirectional"]))  # fmt: skip
    for name, value in rnn.named_parameters():
        value.data.copy_(weights(f"encoder_rnn.{name}", *value.shape))
    embedded = weights("encoder_embed.weight", WORDS, o["wordvec_dim"])[questions]
    states = rnn(embedded)[0]
    last_word = [max(t for t in range(len(row)) if row[t] != 0) for row in questions]
    encoding = torch.stack([states[i, t] for i, t in enumerate(last_word)])
    dim, modules = o["module_dim"], o["num_modules"]
    width = 2 * dim if o["parameter_efficient"] else 4 * dim + 2 * modules
    if o["decoder_type"] == "linear":
        out = weights.linear(encoding, "decoder_linear", modules * width)
    else:
        decoder = {"gru": nn.GRU, "lstm": nn.LSTM}[o["decoder_type"]](
            o["hidden_dim"], o["hidden_dim"], o["rnn_num_layers"], batch_first=True
        )
        for name, value in decoder.named_parameters():
            value.data.copy_(weights(f"decoder_rnn.{name}", *value.shape))
        out = weights.linear(decoder(encoding[:, None])[0][:, 0], "decoder_linear", width)
    out = out.view(len(questions), modules, width)
    function = {"linear": lambda x: x, "sigmoid": torch.sigmoid, "tanh": torch.tanh,
                "exp": torch.exp}[o["gamma_option"]]  # fmt: skip
    gamma = function(out[:, :, :dim]) + o["gamma_baseline"]
    return torch.cat([gamma, out[:, :, dim : 2 * dim]], 2).detach()


def see(o: dict[str, Any], weights: Weights, film: Tensor, x: Tensor) -> Tensor:
    dim, use = o["module_dim"], o["use_coords"]
    method = {"cbn": "bn-film"}.get(o["condition_method"], o["condition_method"])
    method = method.replace("-fac", "-film")  # names of older versions
    concat = method == "concat"
    pattern = o["condition_pattern"] or [not concat] * o["num_modules"]
    k = o["stem_kernel_size"]
    padding = k // 2 if o["stem_padding"] is None else o["stem_padding"]
    layer = 0
    if use and o["stem_stride"] == 1:
        x = torch.cat([x, coordinates(x)], 1)
    for _ in range(o["stem_num_layers"]):
        x = weights.conv(x, f"stem.{layer}", dim, k, o["stem_stride"], padding)
        if o["stem_batchnorm"]:
            x = weights.norm(x, f"stem.{layer + 1}")
        x = F.relu(x)
        layer += 2 + o["stem_batchnorm"]
    for i in range(o["num_modules"]):
        gamma, beta = (part[:, :, None, None] for part in film[:, i].split(dim, 1))
        gamma_beta = torch.cat([gamma, beta], 1).expand(-1, -1, *x.shape[2:])
        gamma = gamma if o["use_gamma"] else torch.ones_like(gamma)
        beta = beta if o["use_beta"] else torch.zeros_like(beta)

        def film_at(y: Tensor, position: str, gamma=gamma, beta=beta, i=i) -> Tensor:
            return gamma * y + beta if method == position and pattern[i] > 0 else y

        x = film_at(x, "block-input-film")
        if o["module_input_proj"]:
            inputs = torch.cat([x, coordinates(x)], 1) if use else x
            size = int(o["module_input_proj"])
            x = F.relu(weights.conv(inputs, f"{i}.input_proj", dim, size, 1, size // 2))
        y = torch.cat([x, gamma_beta], 1) if concat else x
        y = torch.cat([y, coordinates(y)], 1) if use == 2 else y
        size = o["module_kernel_size"]
        y = film_at(weights.conv(y, f"{i}.conv1", dim, size, 1, size // 2), "conv-film")
        if o["module_batchnorm"]:
            affine = not pattern[i] > 0 or o["module_batchnorm_affine"]
            y = weights.norm(y, f"{i}.bn1", affine)
        y = film_at(F.relu(film_at(y, "bn-film")), "relu-film")
        x = film_at(x + y if o["module_residual"] else y, "block-output-film")
    if use:
        x = torch.cat([x, coordinates(x)], 1)
    return classify(o, weights, x)


def classify(o: dict[str, Any], weights: Weights, x: Tensor) -> Tensor:
    layer, pool = 0, o["classifier_downsample"]
    if o["classifier_proj_dim"]:
        x = weights.conv(x, "classifier.0", o["classifier_proj_dim"], 1, 1, 0)
        if o["classifier_batchnorm"]:
            x = weights.norm(x, "classifier.1")
        x = F.relu(x)
        layer += 2 + o["classifier_batchnorm"]
    dims = o["classifier_fc_layers"]
    if pool == "aggressive":
        h, w = x.shape[2:]
        x = F.avg_pool2d(F.max_pool2d(x, 2, 2), h // 2, w // 2)
        layer, dims = layer + 2, ()
    elif pool != "none":
        size = x.shape[2] if pool.endswith("full") else int(pool[-1])
        padding = 0 if x.shape[2] % size == x.shape[3] % size == 0 else 1
        x = (F.max_pool2d if "max" in pool else F.avg_pool2d)(x, size, size, padding)
        layer += 1
    x = x.flatten(1)
    layer += 1
    for width in dims:
        x = weights.linear(x, f"classifier.{layer}", width)
        if o["classifier_batchnorm"]:
            x = weights.norm(x, f"classifier.{layer + 1}")
        x = F.relu(x)
        layer += 2 + o["classifier_batchnorm"] + (o["classifier_dropout"] > 0)
    return weights.linear(x, f"classifier.{layer}", ANSWERS)
