"""Stems and coordinate maps for spectrograms, against loops and torch."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from filmvqa.models.baselines import CnnLSTM
from filmvqa.models.classifier import Classifier
from filmvqa.models.vision import CoordConv2d, Stem
from filmvqa.system.errors import OptionError
from tests.models.small_models import small

SHAPE = (1, 8, 12)


@pytest.mark.parametrize(("axes", "channels"), [("xy", 2), ("x", 1), ("y", 1)])
def test_coordinates_of_chosen_axes(axes: str, channels: int) -> None:
    torch.manual_seed(0)
    conv = CoordConv2d(3, 4, 3, axes=axes, padding=1)
    assert conv.weight.shape == (4, 3 + channels, 3, 3)
    x = torch.randn(2, 3, 5, 7)
    maps = torch.empty(2, channels, 5, 7)
    for i in range(5):
        for j in range(7):
            both = {"x": -1 + 2 * j / 6, "y": -1 + 2 * i / 4}
            maps[:, :, i, j] = torch.tensor([both[axis] for axis in axes])
    expected = F.conv2d(torch.cat([x, maps], 1), conv.weight, conv.bias, padding=1)
    torch.testing.assert_close(conv(x), expected)
    appended = Classifier(3, (5, 7), 4, 0, axes, projection_dim=0, pool="none").project(x)
    torch.testing.assert_close(appended, torch.cat([x, maps], 1))


@pytest.mark.parametrize("axes", ["x", "y"])
def test_a_network_has_coordinates_of_one_axis_everywhere(axes: str) -> None:
    def weights(**options: str) -> dict[str, int]:
        model = small("film", feature_shape=[1, 8, 8], coordinates="everywhere", **options)
        return {n: p.shape[1] for n, p in model.named_parameters() if p.dim() == 4}

    both, one = weights(), weights(coordinate_axes=axes)
    assert {both[name] - one[name] for name in both} == {1}


def test_strides_of_rows_and_columns() -> None:
    stem = Stem(*SHAPE[:1], 4, strides=[[2, 1], 2, [1, 3]], coordinates=False)
    out = stem(torch.randn(2, *SHAPE))
    assert out.shape[2:] == stem.output_size(*SHAPE[1:]) == (2, 2)
    assert [layer.stride for layer in stem.layers if isinstance(layer, torch.nn.Conv2d)] == [
        (2, 1), (2, 2), (1, 3),
    ]  # fmt: skip


def test_rows_as_channels_are_a_convolution_over_time() -> None:
    """There is a channel for each row of each of the features' channels."""
    torch.manual_seed(0)
    stem = Stem(2, 5, "xy", 8, strides=[[1, 2]], coordinates=False, rows_as_channels=True).eval()
    x = torch.randn(3, 2, 8, 12)
    conv = stem.layers[0]
    assert conv.weight.shape == (5, 16, 3, 3)
    series = x.reshape(3, 16, 12)
    expected = F.conv1d(series, conv.weight[:, :, 1], conv.bias, stride=2, padding=1)
    output = stem(x)
    assert output.shape[2:] == stem.output_size(8, 12) == (1, 6)
    expected = torch.relu(expected / (1 + stem.layers[1].eps) ** 0.5)
    torch.testing.assert_close(output[:, :, 0], expected)


def test_cnn_lstm_has_a_stem_on_request() -> None:
    options = {"embedding_dim": 8, "hidden_dim": 6, "res_block_dim": 4, "projection_dim": 3}
    model = CnnLSTM(9, 5, SHAPE, stem_strides=[[2, 2], [2, 1]], classifier_dims=[4], **options)
    logits = model(torch.randn(2, *SHAPE), torch.tensor([[1, 4, 2], [1, 5, 2]]))
    assert logits.shape == (2, 5)
    with pytest.raises(OptionError, match="leaves nothing"):
        CnnLSTM(9, 5, SHAPE, stem_strides=[[4, 1], [2, 1]], **options)
