"""Image networks whose feature maps FiLM reads, and their registry.

A backbone maps uint8 images (N, 3, H, W) to features (N, C, H', W'). The paper's is
ResNet-101 through its third stage: (N, 1024, 14, 14) from 224×224 (section 4.1).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from filmvqa.features.images import IMAGES, FileKind, load_image
from filmvqa.system.devices import to_device

#: Images per forward pass on a CPU, so that their maps fit into its caches: EfficientNet-Lite0
#: takes 162 images of 192×192 a second and thread in batches of 16, and 86 in batches of 64
#: (2026-11-30).
_ON_CPU = 16
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
#: The standard deviation in the original FiLM code and clevr-iep (scripts/extract_features.py).
ORIGINAL_FILM_STD = (0.229, 0.224, 0.224)


class Backbone(nn.Module):
    """Normalises uint8 images and runs ``network`` on them.

    ``weights`` is the name of the weights file and ``weights_sha256`` its hash; feature files
    record both, so that a result can be traced. ``folds`` says whether ``prepared`` may fold batch
    norms into convolutions.
    """

    mean: Tensor
    std: Tensor
    #: The kind of a split's files, and the number of channels of a loaded file.
    file_kind: ClassVar[FileKind] = IMAGES
    input_channels: ClassVar[int] = 3
    #: Whether the standard deviation that normalises the input is configurable.
    takes_std: ClassVar[bool] = False

    def __init__(
        self,
        name: str,
        network: nn.Module,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        *,
        stage: int | None = 0,
        weights: str = "",
        weights_sha256: str = "",
        dtype: str = "float16",
        folds: bool = True,
    ) -> None:
        super().__init__()
        self.name, self.stage, self.folds = name, stage or 0, folds
        self.weights, self.weights_sha256 = weights, weights_sha256
        self.dtype = dtype
        self.network = network
        self.compute_dtype = torch.float32
        self.set_normalization(mean, std)

    def set_normalization(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the mean and the standard deviation of each channel for pixels in [0, 1]."""
        self.register_buffer("mean", 255.0 * torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", 255.0 * torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) to feature maps (N, C, H', W')."""
        if isinstance(self.network, nn.Identity):
            return images
        out: Tensor = self.network(((images.float() - self.mean) / self.std).to(self.compute_dtype))
        return out

    def load(self, path: Path, size: tuple[int, int]) -> NDArray[Any]:
        """Load a file of a split as a uint8 image (C, H, W), resized to ``size`` = (H, W)."""
        return load_image(path, size)

    def spec(self) -> dict[str, Any]:
        """The network's name, weights and stage, and the normalisation of pixels in [0, 1]."""
        return {
            "backbone": self.name,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "stage": self.stage,
            "mean": self.mean.flatten().numpy() / 255.0,
            "std": self.std.flatten().numpy() / 255.0,
        }

    def prepared(self, device: torch.device, bfloat16: bool) -> Backbone:
        """A copy for fast inference: batch norms are folded into the convolutions before them, the
        memory format is channels last, and the network is in bfloat16 on request."""
        prepared = copy.deepcopy(self).eval()
        if self.folds:
            fold_batch_norms(prepared.network)
        prepared.compute_dtype = torch.bfloat16 if bfloat16 else torch.float32
        prepared.network.to(prepared.compute_dtype)
        return prepared.to(device).to(memory_format=torch.channels_last)


def fold_batch_norms(module: nn.Module) -> None:
    """Fold each batch norm in evaluation mode into the convolution registered directly before it.

    This is correct if the two are also applied in that order, as in torchvision's ResNets and
    ``clevr_cnn``. The activation that ends a batch norm of timm is kept.
    """
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if (
            isinstance(child, nn.BatchNorm2d)
            and previous
            and isinstance(previous[1], nn.Conv2d)
            and previous[1].out_channels == child.num_features
        ):
            setattr(module, previous[0], fuse_conv_bn_eval(previous[1], child))
            setattr(module, name, getattr(child, "act", nn.Identity()))
        else:
            fold_batch_norms(child)
        previous = (name, child)


@dataclass(frozen=True)
class BackboneOptions:
    """The options of all backbones; each backbone ignores those that do not apply to it.

    Attributes
    ----------
    stage
        The last stage of a ResNet that runs (1 to 4), or the number of a feature map of a network
        of timm or torchvision, counted from 1. None selects the paper's ResNet stage, or a map of
        the same stride.
    weights
        A weights file, or ``random``; None selects the published or shipped weights.
    front_end
        The settings of spectrograms, in JSON.
    image_size
        (H, W) of the images, for networks that are built for one size; None selects the network's
        default.
    """

    stage: int | None = None
    weights: str | Path | None = None
    front_end: str | None = None
    image_size: tuple[int, int] | None = None


Builder = Callable[[str, BackboneOptions], Backbone]
BACKBONES: dict[str, Builder] = {}


def register_backbone(*names: str) -> Callable[[Builder], Builder]:
    """Register a function that builds backbones from a name and ``BackboneOptions`` (decorator).

    ``data.backbone.name`` accepts each of ``names``. ``<library>/<model>`` stands for all names
    that begin with ``<library>/``.
    """

    def register(build: Builder) -> Builder:
        BACKBONES.update(dict.fromkeys(names, build))
        return build

    return register


@torch.inference_mode()
def compute_maps(backbone: Backbone, images: Tensor) -> Tensor:
    """uint8 images (n, 3, H, W) on the host to maps (n, C, H', W') on the device, in the dtype in
    which they are stored."""
    device = backbone.mean.device
    parts = torch.split(images, _ON_CPU if device.type == "cpu" else len(images))
    maps = torch.cat([backbone(to_device(part, device)) for part in parts])
    return maps.to(getattr(torch, backbone.dtype), memory_format=torch.contiguous_format)
