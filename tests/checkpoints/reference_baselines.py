"""A reference implementation of the original code's baselines, independent of the package.

``checkpoint`` makes a file's content with random weights; ``run`` computes its logits. Names,
shapes and orders are those of the original state dictionaries.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.checkpoints.reference_film import ANSWERS, WORDS, Weights, vocabulary

RNN = {"rnn_wordvec_dim": 6, "rnn_dim": 8, "rnn_num_layers": 2, "rnn_dropout": 0}
CLASSIFIER = {"fc_dims": (10,), "fc_use_batchnorm": False, "fc_dropout": 0}
DEFAULTS: dict[str, dict[str, Any]] = {
    "LSTM": {**RNN, **CLASSIFIER},
    "CNN+LSTM": {
        **RNN, "cnn_feat_dim": (5, 6, 7), "cnn_res_block_dim": 4, "cnn_num_res_blocks": 0,
        "cnn_proj_dim": 7, "cnn_pooling": "maxpool2", **CLASSIFIER,
    },
    "CNN+LSTM+SA": {
        **RNN, "cnn_feat_dim": (5, 6, 7), "stacked_attn_dim": 9, "num_stacked_attn": 2,
        **CLASSIFIER,
    },
}  # fmt: skip


def checkpoint(baseline: str, **options: Any) -> dict[str, Any]:
    """Make the content of a file with these options and random weights."""
    assert set(options) <= DEFAULTS[baseline].keys()
    content: dict[str, Any] = {
        "args": {"model_type": baseline, "feature_dim": "5,6,7"},
        "program_generator_kwargs": None, "program_generator_state": None,
        "execution_engine_kwargs": None, "execution_engine_state": None,
        "baseline_type": baseline,
        "baseline_kwargs": {"vocab": vocabulary(), **DEFAULTS[baseline], **options},
        "vocab": vocabulary(), "val_accs": [0.25, 0.5],
    }  # fmt: skip
    weights = Weights()
    shape = content["baseline_kwargs"].get("cnn_feat_dim", (5, 6, 7))
    answer(content, weights, torch.randn(1, *shape), torch.ones(1, 5, dtype=torch.int64))
    content["baseline_state"] = weights.state
    return content


def run(content: dict[str, Any], features: Tensor, questions: Tensor) -> Tensor:
    """Compute logits (B, answers)."""
    return answer(content, Weights(content["baseline_state"]), features, questions)


def answer(content: dict[str, Any], weights: Weights, x: Tensor, questions: Tensor) -> Tensor:
    o = content["baseline_kwargs"]
    encoding = encode(o, weights, questions)
    if content["baseline_type"] == "CNN+LSTM":
        encoding = torch.cat([encoding, see(o, weights, x).flatten(1)], 1)
    if content["baseline_type"] == "CNN+LSTM+SA":
        image = weights.conv(x, "image_proj", o["rnn_dim"], 1, 1, 0)
        for i in range(o["num_stacked_attn"]):
            encoding = attend(o, weights, f"stacked-attn-{i}", image, encoding)
    return classify(o, weights, encoding)


def encode(o: dict[str, Any], weights: Weights, questions: Tensor) -> Tensor:
    lstm = nn.LSTM(o["rnn_wordvec_dim"], o["rnn_dim"], o["rnn_num_layers"], batch_first=True)
    for name, value in lstm.named_parameters():
        value.data.copy_(weights(f"rnn.rnn.{name}", *value.shape))
    states = lstm(weights("rnn.embed.weight", WORDS, o["rnn_wordvec_dim"])[questions])[0]
    last_word = [max(t for t in range(len(row)) if row[t] != 0) for row in questions]
    return torch.stack([states[i, t] for i, t in enumerate(last_word)]).detach()


def see(o: dict[str, Any], weights: Weights, x: Tensor) -> Tensor:
    layer = 0
    if o["cnn_num_res_blocks"]:
        x = F.relu(weights.conv(x, "cnn.0", o["cnn_res_block_dim"], 3, 1, 1))
        layer = 2
        for _ in range(o["cnn_num_res_blocks"]):
            dim, block = o["cnn_res_block_dim"], f"cnn.{layer}"
            y = weights.norm(weights.conv(x, f"{block}.conv1", dim, 3, 1, 1), f"{block}.bn1")
            y = weights.conv(F.relu(y), f"{block}.conv2", dim, 3, 1, 1)
            x = F.relu(x + weights.norm(y, f"{block}.bn2"))
            layer += 1
    if o["cnn_proj_dim"]:
        x = F.relu(weights.conv(x, f"cnn.{layer}", o["cnn_proj_dim"], 1, 1, 0))
    return F.max_pool2d(x, 2, 2) if o["cnn_pooling"] == "maxpool2" else x


def attend(o: dict[str, Any], weights: Weights, name: str, image: Tensor, query: Tensor) -> Tensor:
    hidden = weights.conv(image, f"{name}.Wv", o["stacked_attn_dim"], 1, 1, 0)
    hidden = hidden + weights.linear(query, f"{name}.Wu", o["stacked_attn_dim"])[:, :, None, None]
    scores = weights.conv(torch.tanh(hidden), f"{name}.Wp", 1, 1, 1, 0)
    share = F.softmax(scores.flatten(1), 1).view_as(scores)
    return query + (share * image).sum((2, 3))


def classify(o: dict[str, Any], weights: Weights, x: Tensor) -> Tensor:
    layer = int(o["fc_dropout"] > 0)
    if o["fc_use_batchnorm"]:
        x = weights.norm(x, f"classifier.{layer}")
        layer += 1
    for width in o["fc_dims"]:
        x = weights.linear(x, f"classifier.{layer}", width)
        if o["fc_use_batchnorm"]:
            x = weights.norm(x, f"classifier.{layer + 1}")
        x = F.relu(x)
        layer += 2 + bool(o["fc_use_batchnorm"]) + (o["fc_dropout"] > 0)
    return weights.linear(x, f"classifier.{layer}", ANSWERS)
