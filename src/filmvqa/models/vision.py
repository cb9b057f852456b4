"""The visual half of FiLM's network: stem, FiLMed residual blocks, classifier (section 3)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from filmvqa.film import film


def with_coordinates(x: Tensor) -> Tensor:
    """Append two maps with each place's x and y from -1 to 1: (N, C, H, W) to (N, C + 2, H, W)."""
    n, _, height, width = x.shape
    ys = torch.linspace(-1, 1, height, device=x.device, dtype=x.dtype)
    xs = torch.linspace(-1, 1, width, device=x.device, dtype=x.dtype)
    maps = torch.stack([xs.expand(height, width), ys[:, None].expand(height, width)])
    return torch.cat([x, maps.expand(n, 2, height, width)], 1)


class Stem(nn.Module):
    """Convolutions with batch norm and ReLU that fit image features to the blocks' width.

    With ``strides`` of 2 it also makes maps of raw pixels. Coordinate maps join its input.
    """

    def __init__(self, input_dim: int, channels: int, strides: tuple[int, ...] = (1,)) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i, stride in enumerate(strides):
            inputs = input_dim + 2 if i == 0 else channels
            layers += [
                nn.Conv2d(inputs, channels, 3, stride, padding=1),
                nn.BatchNorm2d(channels),
                nn.ReLU(),
            ]
        self.layers = nn.Sequential(*layers)

    def forward(self, features: Tensor) -> Tensor:
        """(U, input_dim, H, W) to (U, channels, H', W')."""
        out: Tensor = self.layers(with_coordinates(features))
        return out


class FilmedResBlock(nn.Module):
    """1×1 convolution, ReLU, 3×3 convolution, batch norm, FiLM, ReLU, plus the first ReLU's
    output (figure 3, middle). Batch norm has no scale and shift of its own: FiLM's stand there.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels + 2, channels, 1)
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.norm = nn.BatchNorm2d(channels, affine=False)

    def forward(self, x: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        """x (B, C, H, W); gamma and beta (B, C)."""
        skip = torch.relu(self.project(with_coordinates(x)))
        return skip + torch.relu(film(self.norm(self.conv(skip)), gamma, beta))


class Classifier(nn.Module):
    """1×1 convolution, batch norm, ReLU, global max pool, hidden layer, logits (figure 3, left)."""

    def __init__(
        self, channels: int, num_answers: int, *, projection_dim: int = 512, hidden_dim: int = 1024
    ) -> None:
        super().__init__()
        self.project = nn.Sequential(
            nn.Conv2d(channels + 2, projection_dim, 1), nn.BatchNorm2d(projection_dim), nn.ReLU()
        )
        self.mlp = mlp(projection_dim, (hidden_dim,), num_answers)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to logits (B, num_answers)."""
        out: Tensor = self.mlp(self.project(with_coordinates(x)).amax((2, 3)))
        return out


def mlp(input_dim: int, hidden_dims: tuple[int, ...], output_dim: int) -> nn.Sequential:
    """Linear layers with batch norm and ReLU between them."""
    layers: list[nn.Module] = []
    for width in hidden_dims:
        layers += [nn.Linear(input_dim, width), nn.BatchNorm1d(width), nn.ReLU()]
        input_dim = width
    return nn.Sequential(*layers, nn.Linear(input_dim, output_dim))
