from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from filmvqa.models import MODELS, build_model
from filmvqa.models.encoder import QuestionEncoder
from filmvqa.models.film_net import FilmNet
from filmvqa.models.vision import for_each_question, scale_pixels
from filmvqa.system.errors import UserError
from tests.models.small_models import SIZES, SMALL, questions, small


def test_every_model_has_small_options_here() -> None:
    assert set(SMALL) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_shared_images_give_the_same_as_repeated_ones(name: str) -> None:
    model = small(name).eval()
    features, rows = torch.randn(3, 6, 5, 5), questions([4, 7, 2, 5])
    image_of_question = torch.tensor([2, 0, 0, 1])
    shared = model(features, rows, image_of_question)
    repeated = model(features[image_of_question], rows)
    shapes = {"film_segmentation": (4, 10, 10), "film_label_maps": (4, 7, 10, 10)}
    assert shared.shape == shapes.get(name, (4, 7))
    assert torch.allclose(shared, repeated, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_nothing(name: str) -> None:
    model = small(name).eval()
    features, rows = torch.randn(2, 6, 5, 5), questions([4, 6])
    padded = F.pad(rows, (0, 9))
    assert torch.allclose(model(features, rows), model(features, padded), atol=1e-6)
    alone = model(features[:1], rows[:1, :4])
    assert torch.allclose(model(features, rows)[:1], alone, atol=1e-5)


@pytest.mark.parametrize("name", [name for name in MODELS if name != "qtype"])
def test_gradients_reach_every_weight(name: str) -> None:
    model = small(name).train()
    rows = questions([4, 6, 3, 5])
    output = model(torch.randn(4, 6, 5, 5), rows)
    loss = F.cross_entropy(output.flatten(1), torch.arange(4))
    loss.backward()
    for label, weight in model.named_parameters():
        assert weight.grad is not None, label
        assert torch.isfinite(weight.grad).all(), label


@pytest.mark.parametrize("name", [name for name in MODELS if name != "qtype"])
def test_which_models_see_the_image(name: str) -> None:
    rows = questions([4, 6])
    a, b = torch.randn(2, 6, 5, 5), torch.randn(2, 6, 5, 5)
    model = small(name).eval()
    assert torch.allclose(model(a, rows), model(b, rows)) == (name == "lstm")
    assert not torch.allclose(model(a, rows)[0], model(a, rows.flip(0))[0])


@pytest.mark.parametrize("cell", ["gru", "lstm"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_the_encoder_equals_a_packed_network(cell: str, bidirectional: bool) -> None:
    encoder = QuestionEncoder(
        20, embedding_dim=5, hidden_dim=10, num_layers=2, cell=cell, bidirectional=bidirectional
    )
    width = 5 if bidirectional else 10
    reference = {"gru": nn.GRU, "lstm": nn.LSTM}[cell](
        5, width, 2, batch_first=True, bidirectional=bidirectional
    )
    for name, value in encoder.layers.named_parameters():
        layer, direction, parameter = name.split(".")
        suffix = "_reverse" if direction == "1" else ""
        getattr(reference, parameter.replace("_l0", f"_l{layer}{suffix}")).data.copy_(value)
    lengths = [7, 3, 5, 1]
    rows = questions(lengths)
    packed = nn.utils.rnn.pack_padded_sequence(
        encoder.embedding(rows), torch.tensor(lengths), batch_first=True, enforce_sorted=False
    )
    states, final = reference(packed)
    final = final if cell == "gru" else final[0]
    expected = torch.cat([final[-2], final[-1]], 1) if bidirectional else final[-1]
    words, _ = nn.utils.rnn.pad_packed_sequence(states, batch_first=True)
    ours, encoding = encoder.encode_words(rows)
    assert torch.allclose(encoding, expected, atol=1e-6)
    assert torch.allclose(ours * (rows != 0)[:, :, None], words, atol=1e-6)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_orthogonal_weights_remember_early_words(cell: str) -> None:
    def influence(orthogonal: bool) -> float:
        torch.manual_seed(0)
        encoder = QuestionEncoder(
            20, embedding_dim=8, hidden_dim=32, cell=cell, orthogonal=orthogonal
        )
        rows = questions([30]).repeat(2, 1)
        rows[1, 0] = rows[0, 0] % 19 + 1
        a, b = encoder(rows)
        return float(((a - b).norm() / a.norm()).detach())

    assert influence(True) > 2 * influence(False)
    encoder = QuestionEncoder(20, embedding_dim=8, hidden_dim=16, cell=cell, orthogonal=True)
    for gate in encoder.layers[0][0].weight_hh_l0.split(16):
        assert torch.allclose(gate @ gate.T, torch.eye(16), atol=1e-5)


def test_the_papers_network_has_the_papers_parts() -> None:
    model = FilmNet(93, 28, (1024, 14, 14))
    assert sum(w.numel() for w in model.parameters()) == pytest.approx(59e6, rel=0.01)
    assert model.encoder.layers[0][0].weight_hh_l0.shape == (3 * 4096, 4096)
    assert model.encoder.embedding.weight.shape == (93, 200)
    assert model.film_generator.decoder[0].weight.shape == (4 * 2 * 128, 4096)
    assert model.stem.layers[0].weight.shape == (128, 1024 + 2, 3, 3)
    assert len(model.blocks) == 4
    block = model.blocks[0]
    assert block.project.weight.shape == (128, 130, 1, 1)
    assert block.conv.weight.shape == (128, 128, 3, 3)
    assert not block.norm.affine
    assert model.classifier.project[0].weight.shape == (512, 130, 1, 1)
    assert [m.out_features for m in model.classifier.mlp if isinstance(m, nn.Linear)] == [1024, 28]
    assert isinstance(model.classifier.mlp[1], nn.BatchNorm1d)


@pytest.mark.parametrize("generator", [{}, {"gamma": "one"}, {"multipliers": 0.5}], ids=str)
def test_the_penalty_is_the_generators_of_the_same_batch(generator: dict) -> None:
    model = small("film", generator=generator)
    features, rows = torch.randn(4, 6, 5, 5), questions([4, 6, 3, 5])
    assert model.has_film_penalty
    logits, penalty = model(features, rows, return_penalty=True)
    assert torch.equal(logits, model(features, rows))
    assert torch.equal(penalty, model.film_generator.penalty(model.modulate(rows)))
    assert penalty > 0
    penalty.backward()
    assert next(model.film_generator.parameters()).grad.abs().sum() > 0


def test_without_deviations_there_is_no_penalty() -> None:
    model = small("film", generator={"gamma": "one", "beta": "zero"})
    assert not model.has_film_penalty
    with pytest.raises(ValueError, match="no γ and β"):
        model(torch.randn(1, 6, 5, 5), questions([4]), return_penalty=True)


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(
        UserError,
        match=r"model\.name='flim': must be one of .*film, film_segmentation, film_label_maps",
    ):
        build_model("flim")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 3}, "depth: no such option; there are channels, "),
        ({"chanels": 3}, r"chanels: no such option; did you mean channels\?"),
        ({"channels": "many"}, "channels='many': must be a whole number from 1 to 2147483647"),
        ({"channels": 10**400}, "channels=1000.*: must be a whole number"),
        ({"channels": True}, "channels=true: must be a whole number"),
        ({"num_blocks": -1}, "num_blocks=-1: must be a whole number from 0"),
        ({"film_blocks": 3}, "film_blocks=3: must be a list"),
        ({"coordinates": "all"}, "coordinates='all': must be one of none, inputs, everywhere"),
        ({"coordinates": "all", "num_blocks": 0}, "coordinates='all': must be one of none"),
        ({"head_inputs": "some"}, "head_inputs='some': must be one of last, all"),
        ({"encoder": 3}, "encoder=3: must be a group of keys, or null"),
        ({"encoder": {"cells": "gru"}}, r"encoder\.cells: no such option; did you mean cell\?"),
        ({"encoder": {"vocab_size": 3}}, r"encoder\.vocab_size: no such option"),
        ({"encoder": {"dropout": 2}}, r"encoder\.dropout=2: must be a finite number from 0 to 1"),
        ({"generator": {"channels": 3}}, r"generator\.channels: no such option"),
        ({"generator": {"gamma_baseline": float("nan")}}, r"generator\.gamma_baseline=NaN"),
        (
            {"stem": {"strides": [1, "2"]}},
            r'stem\.strides=\[1, "2"\]: must be a list of at least one, each a whole',
        ),
        ({"stem": {"kernel_size": 0}}, r"stem\.kernel_size=0: must be a whole number from 1"),
        ({"stem": {"kernel_size": 7, "padding": 0}}, r"stem\.kernel_size=7: leaves nothing"),
        ({"block": {"conditioned": False}}, r"block\.conditioned: no such option"),
        ({"classifier": {"norm": "yes"}}, r"classifier\.norm='yes': must be true or false"),
        ({"encoder": {"cell": "rnn"}}, r"encoder\.cell='rnn': must be one of gru, lstm"),
        (
            {"encoder": {"bidirectional": True, "hidden_dim": 5}},
            r"encoder\.hidden_dim=5: must be even",
        ),
        ({"generator": {"decoder": "rnn"}}, r"generator\.decoder='rnn'"),
        ({"generator": {"hidden_dims": [4]}}, r"generator\.hidden_dims=\[4\]: decoder=linear has"),
        (
            {"generator": {"decoder": "gru", "hidden_dims": [4, 5]}},
            r"generator\.hidden_dims=\[4, 5\]: must be equal",
        ),
        ({"block": {"film_position": "nowhere"}}, r"block\.film_position='nowhere'"),
        ({"block": {"kernel_size": 2}}, r"block\.kernel_size=2: must be odd"),
        ({"classifier": {"pool": "sum"}}, r"classifier\.pool='sum'"),
        (
            {"classifier": {"pool": "avgpool7"}, "stem": {"strides": [4]}},
            r"classifier\.pool=avgpool7: leaves",
        ),
        ({"film_blocks": [True]}, "film_blocks has 1 entries for num_blocks=4 blocks"),
        ({"reads": True, "film_blocks": [0, 0, 0, 0]}, "reads=True: no block is conditioned"),
        ({"sets": 2}, "sets=2: needs reads=true"),
        ({"initial_biases": "one"}, "initial_biases='one': must be one of zero, uniform"),
        ({"coordinate_axes": "z"}, "coordinate_axes='z': must be one of xy, x, y"),
        ({"generator": {"decoder": "none"}}, "generator.decoder=none: needs word_attention=true"),
        (
            {"block": {"conditioning": "guide", "input_proj_kernel": 2}},
            r"block\.input_proj_kernel=2: must be odd",
        ),
        (
            {"block": {"conditioning_options": {"rank": 3}}},
            r"block\.conditioning_options\.rank: no such option",
        ),
        (
            {"block": {"conditioning": "concat", "conditioning_options": {"rank": 3}}},
            r"block\.conditioning_options: concat has none",
        ),
        (
            {"classifier": {"pool": "branch", "projection_dim": 0}},
            r"classifier\.pool=branch: needs reads=true",
        ),
        (
            {"classifier": {"pool": "branch", "projection_dim": 8}, "reads": True},
            r"classifier\.projection_dim=8: pool=branch has no map",
        ),
    ],
)
def test_invalid_options_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError, match=rf"^model\.{message}"):
        build_model("film", **SIZES, **({"encoder": {"hidden_dim": 8}} | options))


@pytest.mark.parametrize("error", [TypeError, ValueError])
def test_an_error_of_the_code_keeps_its_traceback(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object, **__: object) -> None:
        raise error("a bug")

    monkeypatch.setattr(nn.init, "kaiming_uniform_", broken)
    with pytest.raises(error, match="a bug"):
        small("film")


def test_biases_begin_at_zero_or_as_in_the_original_code() -> None:
    """The original draws Kaiming's weights and keeps torch's biases, uniform within 1 / √fan-in."""
    models = {name: small("film", initial_biases=name) for name in ("zero", "uniform")}
    for (name, zero), uniform in zip(
        models["zero"].named_parameters(), models["uniform"].parameters(), strict=True
    ):
        module = models["zero"].get_submodule(name.rpartition(".")[0])
        if name.endswith("bias") and isinstance(module, nn.Linear | nn.Conv2d):
            assert not zero.any()
            fan_in = module.weight[0].numel()
            assert 0 < uniform.abs().max() <= 1 / fan_in**0.5
        else:
            assert torch.equal(zero, uniform), name


def test_small_initial_weights_are_torchs_default() -> None:
    """Kaiming's lie within √(6 / fan-in), torch's within √(1 / fan-in)."""
    for name, square in (("kaiming", 6.0), ("small", 1.0)):
        for module in small("film", initial_weights=name).modules():
            if isinstance(module, nn.Linear | nn.Conv2d):
                bound = math.sqrt(square / module.weight[0].numel())
                assert 0.7 * bound < module.weight.abs().max() <= bound


@pytest.mark.parametrize("precision", [torch.float32, torch.bfloat16])
def test_pixels_have_the_models_range(precision: torch.dtype) -> None:
    pixels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == torch.bfloat16):
        centered, unit = scale_pixels(pixels), scale_pixels(pixels, "unit")
    assert centered.dtype == unit.dtype == precision
    assert torch.equal(centered, (pixels.double() / 64 - 2).to(precision))
    assert torch.equal(unit, (pixels.float() / 255).to(precision))
    stored = torch.rand(1, 3, 4, 4)
    assert torch.equal(scale_pixels(stored, "unit"), stored)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_rows_of_images_are_selected_for_each_question(memory_format: torch.memory_format) -> None:
    x = torch.randn(3, 4, 2, 5).contiguous(memory_format=memory_format).requires_grad_()
    index = torch.tensor([2, 0, 0, 2, 2])
    selected = for_each_question(x, index)
    assert torch.equal(selected, x[index])
    assert selected.is_contiguous(memory_format=memory_format)
    weights = torch.randn_like(selected)
    (gradient,) = torch.autograd.grad((selected * weights).sum(), x)
    (expected,) = torch.autograd.grad((x[index] * weights).sum(), x)
    assert torch.allclose(gradient, expected, atol=1e-6)
    assert for_each_question(x, None) is x
