"""The visual half of FiLM's network: stem, FiLMed residual blocks, classifier (section 3)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from filmvqa.film import film


class CoordConv2d(nn.Conv2d):
    """A convolution of x with two maps appended, each place's x and y from -1 to 1 (section 4.1):
    (N, C, H, W) to (N, D, H', W'); the weight is (D, C + 2, k, k)."""

    def __init__(self, channels: int, outputs: int, kernel_size: int, **kwargs: Any) -> None:
        super().__init__(channels + 2, outputs, kernel_size, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        n, _, height, width = x.shape
        # In x's own memory order: another would cost a reordering of all of x.
        last = x.is_contiguous(memory_format=torch.channels_last)
        order = torch.channels_last if last else torch.contiguous_format
        kind: dict[str, Any] = {"device": x.device, "dtype": x.dtype}
        maps = torch.empty((n, 2, height, width), memory_format=order, **kind)
        maps[:, 0] = torch.linspace(-1, 1, width, **kind)
        maps[:, 1] = torch.linspace(-1, 1, height, **kind)[:, None]
        return super().forward(torch.cat([x, maps], 1))


class Stem(nn.Module):
    """Convolutions with batch norm and ReLU that fit image features to the blocks' width.

    With ``strides`` of 2 it also makes maps of raw pixels. Coordinate maps join its input.
    """

    def __init__(self, input_dim: int, channels: int, strides: tuple[int, ...] = (1,)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, stride in enumerate(strides):
            if i == 0:
                layers.append(CoordConv2d(input_dim, channels, 3, stride=stride, padding=1))
            else:
                layers.append(nn.Conv2d(channels, channels, 3, stride, padding=1))
            layers += [nn.BatchNorm2d(channels), nn.ReLU()]
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """(U, input_dim, H, W) to (U, channels, H', W')."""
        out: Tensor = self.layers(features)
        return out


class FilmedResBlock(nn.Module):
    """1×1 convolution, ReLU, 3×3 convolution, batch norm, FiLM, ReLU, plus the first ReLU's
    output (figure 3, middle). Batch norm has no scale and shift of its own: FiLM's stand there.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = CoordConv2d(channels, channels, 1)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels, affine=False)

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        """x (B, C, H, W); gamma and beta (B, C)."""
        skip = torch.relu(self.project(x))
        return skip + torch.relu(film(self.norm(self.conv(skip)), gamma, beta))


class Classifier(nn.Module):
    """1×1 convolution, batch norm, ReLU, global max pool, hidden layer, logits (figure 3, left)."""

    def __init__(
        self, channels: int, num_answers: int, *, projection_dim: int = 512, hidden_dim: int = 1024
    ) -> None:
        super().__init__()
        self.project = nn.Sequential(
            CoordConv2d(channels, projection_dim, 1), nn.BatchNorm2d(projection_dim), nn.ReLU()
        )
        self.mlp = mlp(projection_dim, (hidden_dim,), num_answers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to logits (B, num_answers)."""
        out: Tensor = self.mlp(self.project(x).amax((2, 3)))
        return out


def mlp(input_dim: int, hidden_dims: tuple[int, ...], output_dim: int) -> nn.Sequential:
    """Linear layers with batch norm and ReLU between them."""
    layers: list[nn.Module] = []
    for width in hidden_dims:
        layers += [nn.Linear(input_dim, width), nn.BatchNorm1d(width), nn.ReLU()]
        input_dim = width
    return nn.Sequential(*layers, nn.Linear(input_dim, output_dim))
