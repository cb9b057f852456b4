from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from filmvqa.errors import UserError
from filmvqa.models import MODELS, build_model
from filmvqa.models.encoder import QuestionEncoder
from filmvqa.models.film_net import FilmNet
from filmvqa.models.vision import CoordConv2d

SMALL = {
    "film": {
        "embedding_dim": 8, "hidden_dim": 16, "channels": 12, "num_blocks": 2,
        "projection_dim": 10, "classifier_dim": 14,
    },
    "lstm": {"embedding_dim": 8, "hidden_dim": 16, "num_layers": 2, "classifier_dims": [12]},
}  # fmt: skip


def small(name: str) -> nn.Module:
    torch.manual_seed(0)
    return build_model(name, vocab_size=20, num_answers=7, feature_dim=6, **SMALL[name])


def questions(lengths: list[int]) -> torch.Tensor:
    rows = torch.zeros(len(lengths), max(lengths), dtype=torch.int64)
    for row, length in zip(rows, lengths, strict=True):
        row[:length] = torch.randint(1, 20, (length,))
    return rows


def test_every_model_has_small_options_here() -> None:
    assert set(SMALL) == set(MODELS)


@pytest.mark.parametrize("name", MODELS)
def test_shared_images_give_the_same_as_repeated_ones(name: str) -> None:
    model = small(name).eval()
    features, rows = torch.randn(3, 6, 5, 5), questions([4, 7, 2, 5])
    image_of_question = torch.tensor([2, 0, 0, 1])
    shared = model(features, rows, image_of_question)
    repeated = model(features[image_of_question], rows)
    assert shared.shape == (4, 7)
    assert torch.allclose(shared, repeated, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_padding_changes_nothing(name: str) -> None:
    model = small(name).eval()
    features, rows = torch.randn(2, 6, 5, 5), questions([4, 6])
    padded = F.pad(rows, (0, 9))
    assert torch.allclose(model(features, rows), model(features, padded), atol=1e-6)
    alone = model(features[:1], rows[:1, :4])
    assert torch.allclose(model(features, rows)[:1], alone, atol=1e-5)


@pytest.mark.parametrize("name", MODELS)
def test_gradients_reach_every_weight(name: str) -> None:
    model = small(name).train()
    rows = questions([4, 6, 3, 5])
    loss = F.cross_entropy(model(torch.randn(4, 6, 5, 5), rows), torch.arange(4))
    loss.backward()
    for label, weight in model.named_parameters():
        assert weight.grad is not None, label
        assert torch.isfinite(weight.grad).all(), label


def test_film_sees_image_and_question_and_the_baseline_only_the_question() -> None:
    rows = questions([4, 6])
    a, b = torch.randn(2, 6, 5, 5), torch.randn(2, 6, 5, 5)
    film, lstm = small("film").eval(), small("lstm").eval()
    assert not torch.allclose(film(a, rows), film(b, rows))
    assert torch.equal(lstm(a, rows), lstm(b, rows))
    assert not torch.allclose(film(a, rows)[0], film(a, rows.flip(0))[0])


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_encoder_reads_what_a_packed_network_reads(cell: str) -> None:
    encoder = QuestionEncoder(20, embedding_dim=5, hidden_dim=9, num_layers=2, cell=cell)
    lengths = [7, 3, 5]
    rows = questions(lengths)
    packed = nn.utils.rnn.pack_padded_sequence(
        encoder.embedding(rows), torch.tensor(lengths), batch_first=True, enforce_sorted=False
    )
    _, state = encoder.rnn(packed)
    expected = (state if cell == "gru" else state[0])[-1]
    assert torch.allclose(encoder(rows), expected, atol=1e-6)


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_an_orthogonal_start_remembers_early_words(cell: str) -> None:
    def influence(orthogonal: bool) -> float:
        torch.manual_seed(0)
        encoder = QuestionEncoder(
            20, embedding_dim=8, hidden_dim=32, cell=cell, orthogonal=orthogonal
        )
        rows = questions([30]).repeat(2, 1)
        rows[1, 0] = rows[0, 0] % 19 + 1
        first, second = encoder(rows)
        return float(((first - second).norm() / first.norm()).detach())

    assert influence(True) > 2 * influence(False)
    encoder = QuestionEncoder(20, embedding_dim=8, hidden_dim=16, cell=cell, orthogonal=True)
    for gate in encoder.rnn.weight_hh_l0.split(16):
        assert torch.allclose(gate @ gate.T, torch.eye(16), atol=1e-5)


def test_coordinates_run_from_minus_one_to_one() -> None:
    conv = CoordConv2d(1, 2, 1, bias=False)
    conv.weight.data = torch.tensor([[0.0, 1, 0], [0.0, 0, 1]]).view(2, 3, 1, 1)
    xs, ys = conv(torch.randn(2, 1, 3, 5))[1]
    assert torch.allclose(xs, torch.linspace(-1, 1, 5).expand(3, 5))
    assert torch.allclose(ys, torch.linspace(-1, 1, 3)[:, None].expand(3, 5))


def test_the_papers_network_has_the_papers_parts() -> None:
    model = FilmNet(93, 28, 1024)
    assert model.encoder.rnn.weight_hh_l0.shape == (3 * 4096, 4096)
    assert model.encoder.embedding.weight.shape == (93, 200)
    assert model.film_generator.linear.weight.shape == (4 * 2 * 128, 4096)
    assert model.stem.layers[0].weight.shape == (128, 1024 + 2, 3, 3)
    assert len(model.blocks) == 4
    block = model.blocks[0]
    assert block.project.weight.shape == (128, 130, 1, 1)
    assert block.conv.weight.shape == (128, 128, 3, 3)
    assert not block.norm.affine
    assert model.classifier.project[0].weight.shape == (512, 130, 1, 1)
    assert [m.out_features for m in model.classifier.mlp if isinstance(m, nn.Linear)] == [1024, 28]
    assert isinstance(model.classifier.mlp[1], nn.BatchNorm1d)


def test_gamma_is_a_deviation_from_one() -> None:
    model = small("film")
    nn.init.zeros_(model.film_generator.linear.weight)
    gamma, beta = model.film_generator(torch.randn(3, 16))
    assert torch.equal(gamma, torch.ones(3, 2, 12))
    assert torch.equal(beta, torch.zeros(3, 2, 12))


def test_pixels_through_a_strided_stem() -> None:
    options = SMALL["film"] | {"stem_strides": [2, 2, 2, 2]}
    model = build_model("film", vocab_size=20, num_answers=7, feature_dim=3, **options).eval()
    images = torch.randint(0, 256, (2, 3, 224, 224), dtype=torch.uint8)
    with torch.inference_mode():
        assert model.stem(torch.randn(1, 3, 224, 224)).shape == (1, 12, 14, 14)
        assert model(images, questions([3, 4])).shape == (2, 7)


def test_unknown_models_and_options_are_refused() -> None:
    with pytest.raises(UserError, match="unknown model 'flim'"):
        build_model("flim")
    with pytest.raises(UserError, match="depth"):
        build_model("film", vocab_size=4, num_answers=2, feature_dim=1, depth=3)
    with pytest.raises(UserError, match="cell='rnn'"):
        build_model("film", vocab_size=4, num_answers=2, feature_dim=1, cell="rnn")


def test_the_original_codes_numbers(shared) -> None:
    """A checkpoint of the original FiLM code gives its logits, γ and β in this network."""
    saved = torch.load(shared / "reference/film_original_small.pt", weights_only=True)
    arrays = np.load(shared / "reference/film_original_small.npz")
    model = FilmNet(
        93, 32, 32, embedding_dim=20, hidden_dim=48, channels=16, num_blocks=4, projection_dim=24,
        classifier_dim=40,
    ).eval()  # fmt: skip
    state = {}
    for name, value in saved["execution_engine_state"].items():
        for old, new in (
            ("stem.", "stem.layers."), ("classifier.0.", "classifier.project.0."),
            ("classifier.1.", "classifier.project.1."), ("classifier.5.", "classifier.mlp.0."),
            ("classifier.6.", "classifier.mlp.1."), ("classifier.8.", "classifier.mlp.3."),
        ):  # fmt: skip
            if name.startswith(old):
                state[new + name.removeprefix(old)] = value
        if name[0].isdigit():
            renamed = name.replace("input_proj", "project").replace("conv1", "conv")
            state["blocks." + renamed.replace("bn1", "norm")] = value
    for name, value in saved["program_generator_state"].items():
        renamed = name.replace("encoder_embed", "encoder.embedding")
        renamed = renamed.replace("encoder_rnn", "encoder.rnn")
        state[renamed.replace("decoder_linear", "film_generator.linear")] = value
    model.load_state_dict(state)
    rows = torch.from_numpy(arrays["questions"]).long()
    with torch.inference_mode():
        gamma, beta = model.film_generator(model.encoder(rows))
        logits = model(torch.from_numpy(arrays["features"]), rows)
    assert torch.allclose(torch.cat([gamma, beta], 2), torch.from_numpy(arrays["film"]), atol=1e-4)
    assert torch.allclose(logits, torch.from_numpy(arrays["logits"]), atol=1e-4)
