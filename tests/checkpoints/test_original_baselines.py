"""Checkpoints of the original code's baselines give the original numbers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from filmvqa.checkpoints.original_film import load_original_film, read_original_film
from tests.checkpoints.reference_baselines import checkpoint, run
from tests.checkpoints.test_original_film import batch

NAMES = ("LSTM", "CNN+LSTM", "CNN+LSTM+SA")


def assert_same(path: Path, baseline: str, **options: Any) -> torch.Tensor:
    """Check that the logits are the reference's, and return them."""
    content = checkpoint(baseline, **options)
    torch.save(content, path)
    model, _ = load_original_film(path)
    assert not model.training
    features, questions = batch(options.get("cnn_feat_dim", (5, 6, 7)))
    with torch.inference_mode():
        expected, logits = run(content, features, questions), model(features, questions)
    assert torch.allclose(logits, expected, atol=1e-4, rtol=1e-4)
    return logits


ONE_AT_A_TIME: list[tuple[str, dict[str, Any]]] = [
    *((name, options) for name in NAMES for options in (
        {}, {"fc_use_batchnorm": True}, {"fc_dropout": 0.5}, {"rnn_dropout": 0.25},
        {"fc_use_batchnorm": True, "fc_dropout": 0.5}, {"fc_dims": ()},
        {"fc_dims": (), "fc_use_batchnorm": True}, {"fc_dims": (6, 5)}, {"rnn_num_layers": 1},
    )),
    ("CNN+LSTM", {"cnn_num_res_blocks": 2}),
    ("CNN+LSTM", {"cnn_num_res_blocks": 1, "cnn_proj_dim": 0}),
    ("CNN+LSTM", {"cnn_pooling": "none"}),
    ("CNN+LSTM", {"cnn_proj_dim": 0, "fc_use_batchnorm": True}),
    ("CNN+LSTM", {"cnn_feat_dim": (3, 8, 8)}),
    ("CNN+LSTM+SA", {"num_stacked_attn": 0}),
    ("CNN+LSTM+SA", {"num_stacked_attn": 3, "cnn_feat_dim": (3, 8, 8)}),
]  # fmt: skip


@pytest.mark.parametrize(("baseline", "options"), ONE_AT_A_TIME, ids=str)
def test_each_option_gives_the_original_numbers(
    baseline: str, options: dict, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    logits = assert_same(tmp_path / "baseline.pt", baseline, **options)
    assert not torch.allclose(logits[0], logits[1])  # not a network with constant output


@settings(max_examples=30)
@given(
    baseline=st.sampled_from(NAMES),
    classifier=st.fixed_dictionaries({
        "fc_dims": st.lists(st.integers(1, 9), max_size=3),
        "fc_use_batchnorm": st.sampled_from([False, True, 0, 1]),
        "fc_dropout": st.sampled_from([0, 0.0, 0.5]),
        "rnn_num_layers": st.integers(1, 3),
    }),
    cnn=st.fixed_dictionaries({
        "cnn_num_res_blocks": st.integers(0, 2),
        "cnn_proj_dim": st.sampled_from([0, 6]),
        "cnn_pooling": st.sampled_from(["none", "maxpool2"]),
    }),
    seed=st.integers(0, 2**31),
)  # fmt: skip
def test_combined_options_give_the_original_numbers(
    baseline: str, classifier: dict, cnn: dict, seed: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    torch.manual_seed(seed)
    options = classifier | (cnn if baseline == "CNN+LSTM" else {})
    assert_same(tmp_path_factory.mktemp("b") / "baseline.pt", baseline, **options)


def test_missing_options_have_the_original_defaults(tmp_path: Path) -> None:
    content = checkpoint("CNN+LSTM", rnn_num_layers=2, cnn_pooling="maxpool2")
    for key in ("rnn_num_layers", "rnn_dropout", "cnn_pooling", "cnn_num_res_blocks",
                "cnn_res_block_dim", "fc_use_batchnorm", "fc_dropout"):  # fmt: skip
        del content["baseline_kwargs"][key]
    torch.save(content, tmp_path / "baseline.pt")
    kwargs = read_original_film(tmp_path / "baseline.pt").kwargs
    assert kwargs["num_layers"] == 2
    assert kwargs["classifier_norm"] == "none"
    assert (kwargs["pool"], kwargs["num_res_blocks"]) == ("maxpool2", 0)


def test_dropout_is_where_the_original_has_it(tmp_path: Path) -> None:
    """On the classifier's input, after hidden layers, and between LSTM layers."""
    torch.save(checkpoint("LSTM", fc_dropout=0.5, rnn_dropout=0.25, fc_dims=(6, 5)),
               tmp_path / "b.pt")  # fmt: skip
    model, _ = load_original_film(tmp_path / "b.pt")
    kinds = [type(layer).__name__ for layer in model.classifier]
    hidden = ["Linear", "ReLU", "Dropout"]  # dropout and ReLU may be exchanged
    assert kinds == ["Dropout", *hidden, *hidden, "Linear"]
    assert model.encoder.layer_dropout.p == 0.25
    assert all(layer.p == 0.5 for layer in model.classifier if isinstance(layer, torch.nn.Dropout))
