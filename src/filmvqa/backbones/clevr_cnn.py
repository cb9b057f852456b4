"""The shipped network for CLEVR images, pretrained by ``scripts/pretrain_backbone.py``."""

from __future__ import annotations

import hashlib
from importlib.resources import as_file, files
from pathlib import Path

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor, nn

from filmvqa.backbones.backbone import Backbone, BackboneOptions, register_backbone
from filmvqa.system.errors import UserError, one_line

SHIPPED_WEIGHTS = "clevr_cnn.safetensors"


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
        nn.BatchNorm2d(outputs),
        nn.ReLU(),
    )


class ResidualConv(nn.Module):
    """x + ReLU(BN(conv(x))): (N, C, H, W) to the same."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = _conv(channels, channels)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.conv(x)
        return out


class ClevrCNN(nn.Module):
    """A small network for CLEVR images: (N, 3, H, W) to (N, 96, H/8, W/8).

    Trained by ``scripts/pretrain_backbone.py`` to classify the object in each cell. Unlike an
    ImageNet network it does not show that FiLM works on features of another domain: it was trained
    on images of this world.
    """

    def __init__(self, channels: int = 96, blocks: int = 4) -> None:
        super().__init__()
        self.channels = channels
        self.trunk = nn.Sequential(
            _conv(3, 32, stride=2),
            _conv(32, 64, stride=2),
            ResidualConv(64),
            _conv(64, channels, stride=2),
            *(ResidualConv(channels) for _ in range(blocks)),
        )

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.trunk(x)
        return out


@register_backbone("clevr_cnn")
def build_clevr_cnn(name: str, options: BackboneOptions) -> Backbone:
    """``ClevrCNN`` with the weights of a safetensors file, or the shipped ones."""
    network = ClevrCNN()
    with as_file(files("filmvqa.backbones") / "weights" / SHIPPED_WEIGHTS) as shipped:
        path = Path(options.weights) if options.weights else shipped
        if not path.is_file():
            raise UserError(f"{path}: no such weights; make them with scripts/pretrain_backbone.py")
        content = path.read_bytes()
        try:
            state = {k: v.float() for k, v in safetensors.torch.load(content).items()}
            network.load_state_dict(state)
        except (SafetensorError, RuntimeError) as error:
            raise UserError(
                f"{path}: not weights of clevr_cnn ({one_line(error)}); "
                "give a file of scripts/pretrain_backbone.py"
            ) from None
        digest = hashlib.sha256(content).hexdigest()
    return Backbone(name, network, weights=path.name, weights_sha256=digest, stage=3).eval()
