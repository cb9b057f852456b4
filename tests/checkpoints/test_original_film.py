"""Checkpoints of the original FiLM code give the original numbers."""

from __future__ import annotations

import errno
import pickle
import re
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.checkpoints.original_film import load_original_film
from filmvqa.models.classifier import ORIGINAL_POOLS
from filmvqa.system.errors import UserError
from tests.checkpoints.reference_baselines import checkpoint as baseline_checkpoint
from tests.checkpoints.reference_film import ANSWERS, WORDS, checkpoint, run
from tests.conftest import examples

LSTM = baseline_checkpoint("LSTM")


def batch(feature_dim: tuple[int, ...], width: int = 46) -> tuple[torch.Tensor, torch.Tensor]:
    """Features and questions, padded to ``width`` (the default is CLEVR's longest question)."""
    questions = torch.zeros(5, width, dtype=torch.int64)
    for row, length in zip(questions, (3, width, 12, width - 1, 1), strict=True):
        row[:length] = torch.randint(1, WORDS, (length,))
    return torch.randn(5, *feature_dim), questions


def assert_loads_as(content: dict[str, Any], path: Path, width: int = 46) -> torch.Tensor:
    """Check that a file's model gives the reference's logits for ``content``, and return them."""
    model, vocabulary = load_original_film(path)
    assert not model.training
    assert {weight.dtype for weight in model.parameters()} == {torch.float32}
    assert len(vocabulary["answer_token_to_idx"]) == ANSWERS
    options = content["execution_engine_kwargs"]
    features, questions = batch(options["feature_dim"], width)
    with torch.inference_mode():
        film, expected = run(content, features, questions)
        logits = model(features, questions)
        assert torch.allclose(logits, expected, atol=1e-4, rtol=1e-4)
        if options["use_gamma"] and options["use_beta"] and all(model.conditioned_blocks):
            gamma, beta, *_ = model.modulate(questions)
            assert torch.allclose(torch.cat([gamma, beta], 2), film, atol=1e-5)
    return logits


def assert_same(path: Path, width: int = 46, **options: Any) -> torch.Tensor:
    content = checkpoint(**options)
    torch.save(content, path)
    return assert_loads_as(content, path, width)


ONE_AT_A_TIME: list[dict[str, Any]] = [
    {},
    *({"condition_method": m} for m in (
        "conv-film", "relu-film", "block-input-film", "block-output-film", "concat",
        "cbn", "conv-fac", "relu-fac", "block-input-fac", "block-output-fac")),
    {"condition_pattern": [1, 0, 1]},
    {"condition_pattern": [0, 0, 0]},
    {"condition_method": "concat", "condition_pattern": [1, 0, 1]},
    {"condition_method": "concat", "use_coords": 2},
    {"use_gamma": False},
    {"use_beta": False},
    *({"gamma_option": o, "gamma_baseline": b} for o in ("sigmoid", "tanh", "exp") for b in (0, 1)),
    {"gamma_baseline": 0},
    {"parameter_efficient": False},
    {"bidirectional": True},
    {"bidirectional": True, "rnn_num_layers": 2, "encoder_type": "lstm"},
    {"encoder_type": "lstm"},
    {"rnn_num_layers": 3},
    {"use_coords": 0},
    {"use_coords": 2},
    {"module_residual": False},
    {"module_batchnorm": False},
    {"module_batchnorm_affine": True},
    {"module_input_proj": 0},
    {"module_input_proj": 3},
    {"module_input_proj": True},
    {"module_kernel_size": 1},
    {"stem_batchnorm": False},
    {"stem_num_layers": 2},
    {"stem_num_layers": 3, "stem_stride": 2, "feature_dim": (3, 48, 48)},
    {"stem_kernel_size": 5, "stem_padding": 1},
    {"stem_kernel_size": 1},
    *({"classifier_downsample": p, "feature_dim": (5, 14, 14)} for p in ORIGINAL_POOLS),
    *({"classifier_downsample": p} for p in ORIGINAL_POOLS),
    {"classifier_batchnorm": False},
    {"classifier_proj_dim": 0},
    {"classifier_proj_dim": None, "use_coords": 0},
    {"classifier_fc_layers": ()},
    {"classifier_fc_layers": (6, 5), "classifier_dropout": 0.5},
    {"module_dropout": 0.3, "rnn_dropout": 0.2, "rnn_num_layers": 2},
    {"num_modules": 1, "decoder_type": "gru"},
    {"num_modules": 1, "decoder_type": "lstm", "rnn_num_layers": 2},
    {"num_modules": 12},
]  # fmt: skip


@pytest.mark.parametrize("options", ONE_AT_A_TIME, ids=str)
def test_each_option_gives_the_original_numbers(options: dict, tmp_path: Path) -> None:
    torch.manual_seed(0)
    logits = assert_same(tmp_path / "film.pt", **options)
    assert not torch.allclose(logits[0], logits[1])  # not a network with constant output


COMBINED = st.fixed_dictionaries({
    "condition_method": st.sampled_from(
        ["bn-film", "conv-film", "relu-film", "block-input-film", "block-output-film", "concat"]),
    "condition_pattern": st.lists(st.integers(0, 1), min_size=3, max_size=3),
    "use_gamma": st.booleans(),
    "gamma_option": st.sampled_from(["linear", "sigmoid", "tanh", "exp"]),
    "gamma_baseline": st.sampled_from([0, 1, 0.5]),
    "bidirectional": st.booleans(),
    "encoder_type": st.sampled_from(["gru", "lstm"]),
    "rnn_num_layers": st.integers(1, 2),
    "use_coords": st.integers(0, 2),
    "module_residual": st.booleans(),
    "module_batchnorm": st.booleans(),
    "module_batchnorm_affine": st.booleans(),
    "module_input_proj": st.sampled_from([0, 1, 3]),
    "stem_num_layers": st.integers(1, 2),
    "stem_batchnorm": st.booleans(),
    "classifier_downsample": st.sampled_from(ORIGINAL_POOLS),
    "classifier_batchnorm": st.booleans(),
    "parameter_efficient": st.booleans(),
    "width": st.integers(12, 46),
})  # fmt: skip


@examples(40)
@given(options=COMBINED, seed=st.integers(0, 2**31))
def test_combined_options_give_the_original_numbers(
    options: dict, seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    torch.manual_seed(seed)
    assert_same(tmp_path_factory.mktemp("o") / "film.pt", **options)


def test_a_file_of_the_original_code(shared: Path) -> None:
    model, vocabulary = load_original_film(shared / "reference/film_original_small.pt")
    arrays = np.load(shared / "reference/film_original_small.npz")
    rows = torch.from_numpy(arrays["questions"]).long()
    with torch.inference_mode():
        gamma, beta, *_ = model.modulate(rows)
        logits = model(torch.from_numpy(arrays["features"]), rows)
    assert torch.allclose(torch.cat([gamma, beta], 2), torch.from_numpy(arrays["film"]), atol=1e-4)
    assert torch.allclose(logits, torch.from_numpy(arrays["logits"]), atol=1e-4)
    assert len(vocabulary["question_token_to_idx"]) == 93


def test_missing_options_have_the_original_defaults(tmp_path: Path) -> None:
    content = checkpoint(stem_num_layers=2, stem_batchnorm=False, classifier_batchnorm=False,
                         module_batchnorm=False, classifier_downsample="maxpool2")  # fmt: skip
    full = content["execution_engine_kwargs"]
    left_out = {"stem_num_layers", "stem_batchnorm", "classifier_batchnorm", "module_batchnorm",
                "classifier_downsample", "condition_method", "use_coords"}  # fmt: skip
    others = {key: value for key, value in full.items() if key not in left_out}
    torch.save(content | {"execution_engine_kwargs": others}, tmp_path / "old.pt")
    assert_loads_as(content, tmp_path / "old.pt")


def with_options(**options: Any) -> dict[str, Any]:
    """A file whose options no longer fit its weights."""
    content = checkpoint()
    for side in ("program_generator_kwargs", "execution_engine_kwargs"):
        content[side] |= {k: v for k, v in options.items() if k in content[side]}
    return content


def with_fewer_words() -> dict[str, Any]:
    content = checkpoint()
    del content["vocab"]["question_token_to_idx"]["t14"]
    return content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such file"),
        (b"PK nonsense", "not a readable checkpoint"),
        (with_options(condition_method="film"), "condition_method='film' cannot be loaded"),
        (with_options(condition_pattern=[1, 1]), r"condition_pattern=\[1, 1\]"),
        (with_options(classifier_downsample="maxpool6"), "classifier_downsample='maxpool6'"),
        (with_options(use_coords=3), "use_coords=3"),
        (with_options(module_num_layers=2), "module_num_layers=2"),
        (with_options(module_kernel_size=4), "module_kernel_size=4"),
        (with_options(gamma_option="relu"), "gamma_option='relu'"),
        (with_options(encoder_type="cnn"), "encoder_type='cnn'"),
        (with_options(decoder_type="gru"), "decoder_type='gru'"),
        (with_options(decoder_type="gru", output_batchnorm=True, num_modules=1),
         "output_batchnorm"),
        (with_options(module_dim=5), "do not fit its options"),
        (with_fewer_words(), "vocabulary has 14 words and 9 answers, its weights 15"),
        (checkpoint() | {"execution_engine_kwargs": None}, "not a FiLM checkpoint"),
        (checkpoint() | {"execution_engine_kwargs": {"depth": 3}}, "'depth'"),
        (checkpoint() | {"vocab": {}}, "lacks 'question_token_to_idx'"),
        (checkpoint() | {"program_generator_state": {}}, "lacks 'encoder_embed.weight'"),
        (checkpoint() | {"args": {"model_type": "PG+EE"}},
         r"model_type 'PG\+EE' .* cannot be loaded; FiLM, LSTM"),
        (LSTM | {"baseline_type": "CNN+BoW"}, "baseline_type='CNN.BoW' cannot be loaded"),
        (LSTM | {"baseline_type": ["LSTM"]}, "cannot be loaded"),
        (LSTM | {"baseline_kwargs": None}, "lacks 'baseline_kwargs'"),
        (LSTM | {"baseline_kwargs": {"depth": 3}}, "'depth'"),
        (LSTM | {"baseline_kwargs": {"rnn_dim": "8"}}, "rnn_dim"),
        (LSTM | {"baseline_kwargs": {"rnn_dim": -8}}, "no model has these options"),
        (LSTM | {"baseline_state": {}}, r"lacks 'rnn\.embed\.weight'"),
        (LSTM | {"vocab": {}}, "lacks 'question_token_to_idx'"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_unsuitable_files_are_refused(
    content: dict | bytes | None, message: str, tmp_path: Path
) -> None:
    path = tmp_path / "film.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=message):
        load_original_film(path)


def test_missing_and_unexpected_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "film.pt"
    film, lstm = checkpoint(), baseline_checkpoint("LSTM")
    for content, entry in (
        (film, "execution_engine_state"), (film, "program_generator_state"),
        (lstm, "baseline_state"),
    ):  # fmt: skip
        for name in content[entry]:
            if name.endswith("num_batches_tracked"):
                continue
            without = {k: v for k, v in content[entry].items() if k != name}
            torch.save(content | {entry: without}, path)
            with pytest.raises(UserError, match=re.escape(f"lacks {name!r} in {entry}")):
                load_original_film(path)
        torch.save(content | {entry: content[entry] | {"stem.x": torch.ones(2)}}, path)
        with pytest.raises(UserError, match=f"has 'stem.x' in {entry}"):
            load_original_film(path)


@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_torchs_warnings_are_suppressed(
    protocol: int, tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    """torch warns about pickle protocols that it may not support."""
    (tmp_path / "a.pt").write_bytes(pickle.dumps({"a": 1}, protocol))
    with pytest.raises(UserError, match=r"a\.pt: not a readable checkpoint"):
        load_original_film(tmp_path / "a.pt")
    assert not list(recwarn)


STRANGE = [None, "x", -1, 0, 3, 10**9, 2.5, float("nan"), True, [], {}, ["a"], {"a": 1}, {1: 2},
           torch.ones(()), torch.ones(2, 3), torch.ones(2, dtype=torch.int64),
           torch.ones(2, 2).to_sparse(), torch.ones(3, dtype=torch.complex64)]  # fmt: skip


@examples(150)
@given(
    data=st.data(),
    make=st.sampled_from(["FiLM", "LSTM", "CNN+LSTM", "CNN+LSTM+SA"]),
    delete=st.booleans(),
    strange=st.sampled_from(range(len(STRANGE))),
)
def test_a_damaged_file_is_read_or_refused_in_one_line(
    data: st.DataObject, make: str, delete: bool, strange: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:  # fmt: skip
    torch.manual_seed(0)
    content = checkpoint() if make == "FiLM" else baseline_checkpoint(make)
    inner: dict[Any, Any] = content
    while True:
        key = data.draw(st.sampled_from(list(inner)))
        if not isinstance(inner[key], dict) or not inner[key] or data.draw(st.booleans()):
            break
        inner = inner[key]
    if delete:
        del inner[key]
    else:
        inner[key] = STRANGE[strange]
    path = tmp_path_factory.mktemp("strange") / "film.pt"
    torch.save(content, path)
    try:
        load_original_film(path)
    except UserError as error:
        assert str(error).startswith(f"{path}: ")
        assert "\n" not in str(error)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_other_dtypes_and_torch_versions_give_the_same_model(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    """torch 0.2 has no ``num_batches_tracked``, and writes another file format."""
    content = checkpoint()
    old = dict(content)
    for entry in ("program_generator_state", "execution_engine_state"):
        content[entry] = {
            name: value.to(dtype).float()
            for name, value in content[entry].items()
            if not name.endswith("num_batches_tracked")
        }
        old[entry] = {k: torch.nn.Parameter(v.to(dtype)) for k, v in content[entry].items()}
    torch.save(old, tmp_path / "old.pt", _use_new_zipfile_serialization=False)
    assert_loads_as(content, tmp_path / "old.pt")


def test_a_system_error_is_not_reported_as_a_broken_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.save(checkpoint(), tmp_path / "film.pt")
    denied = PermissionError(errno.EACCES, "Permission denied", str(tmp_path / "film.pt"))
    with monkeypatch.context() as patched:
        patched.setattr("builtins.open", Mock(side_effect=denied))
        with pytest.raises(UserError, match=r"cannot be read .*Permission denied") as refusal:
            load_original_film(tmp_path / "film.pt")
    for words in ("delete", "again from", "not a readable checkpoint"):
        assert words not in str(refusal.value)
