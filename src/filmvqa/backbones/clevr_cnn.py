"""The shipped network for CLEVR images, pretrained by ``scripts/pretrain_backbone.py``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from importlib.resources import as_file, files
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from filmvqa.backbones.backbone import Backbone, BackboneOptions, register_backbone
from filmvqa.backbones.object_heads import HEADS, ObjectHeads
from filmvqa.backbones.settings import RANDOM
from filmvqa.backbones.weight_files import drawn_alike, hash_weights
from filmvqa.system.errors import UserError, one_line

SHIPPED_WEIGHTS = "clevr_cnn.safetensors"
#: Weights of the network, trained for longer, with heads.
SHIPPED_WITH_HEADS = "clevr_cnn_heads.safetensors"


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

    Trained by ``scripts/pretrain_backbone.py`` to classify the object in each cell. Since it is
    trained on images of this world, results with it do not show that FiLM works on features of
    another domain, as results with an ImageNet network do.
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


class PlacesCNN(nn.Module):
    """``ClevrCNN``'s maps and another channel with the logits of places of objects.

    The sum of the logits' sigmoids over the map approximates the number of objects.
    (N, 3, H, W) to (N, 97, H/8, W/8).
    """

    def __init__(self, network: ClevrCNN, heads: ObjectHeads) -> None:
        super().__init__()
        self.network, self.heads = network, heads

    def forward(self, x: Tensor) -> Tensor:
        maps = self.network(x)
        _, places, _ = self.heads(maps)
        return torch.cat([maps, places[:, None].to(maps.dtype)], 1)


def load_clevr_cnn(path: Path, name: str = "clevr_cnn") -> tuple[ClevrCNN, ObjectHeads | None, str]:
    """Load the network and, if the file has them, the heads; also return the file's SHA-256.

    Raises
    ------
    UserError
        If the file does not exist, or does not have weights of ``name``.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such weights; make them with scripts/pretrain_backbone.py")
    content = path.read_bytes()
    network, heads = ClevrCNN(), None
    try:
        state = {k: v.float() for k, v in safetensors.torch.load(content).items()}
        of_heads = {k.removeprefix(HEADS): state.pop(k) for k in list(state) if k.startswith(HEADS)}
        network.load_state_dict(state)
        if of_heads:
            heads = ObjectHeads.from_state(of_heads)
    except (SafetensorError, RuntimeError) as error:
        raise UserError(
            f"{path}: not weights of {name} ({one_line(error)}); "
            "give a file of scripts/pretrain_backbone.py"
        ) from None
    return network, heads, hashlib.sha256(content).hexdigest()


@register_backbone("clevr_cnn")
def build_clevr_cnn(name: str, options: BackboneOptions) -> Backbone:
    """``ClevrCNN`` with the weights of a safetensors file, the shipped weights, or random ones."""
    if options.weights == RANDOM:
        with drawn_alike():
            network = ClevrCNN()
        weights, digest = RANDOM, hash_weights(network)
    else:
        path, network, _, digest = _load(name, options, SHIPPED_WEIGHTS)
        weights = path.name
    return Backbone(name, network, weights=weights, weights_sha256=digest, stage=3)


@register_backbone("clevr_places")
def build_clevr_places(name: str, options: BackboneOptions) -> Backbone:
    """``PlacesCNN`` with the weights of a safetensors file, or the shipped weights."""
    return with_heads(name, options, PlacesCNN)


def with_heads(
    name: str, options: BackboneOptions, build: Callable[[ClevrCNN, ObjectHeads], nn.Module]
) -> Backbone:
    """A backbone that ``build`` makes of the network and heads of a safetensors file; the default
    is the shipped one.

    Raises
    ------
    UserError
        If the file cannot be read, or has no heads.
    """
    path, network, heads, digest = _load(name, options, SHIPPED_WITH_HEADS)
    if heads is None:
        raise UserError(
            f"{path}: has no heads, which {name} needs; give a file that "
            "scripts/pretrain_backbone.py wrote with init=<this file>"
        )
    return Backbone(name, build(network, heads), weights=path.name, weights_sha256=digest, stage=3)


def _load(
    name: str, options: BackboneOptions, shipped: str
) -> tuple[Path, ClevrCNN, ObjectHeads | None, str]:
    """The weights file, by default the shipped one, and what ``load_clevr_cnn`` loads from it."""
    with as_file(files("filmvqa.backbones") / "weights" / shipped) as default:
        path = Path(options.weights or default)
        return path, *load_clevr_cnn(path, name)
