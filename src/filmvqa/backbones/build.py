"""Image networks whose feature maps FiLM reads: torchvision's ResNets, the shipped CNN, or none.

A backbone maps uint8 images (N, 3, H, W) to features (N, C, H', W'). The paper's is
ResNet-101 through its third stage: (N, 1024, 14, 14) from 224×224 (section 4.1).
"""

from __future__ import annotations

import copy
import hashlib
import re
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from importlib.resources import as_file, files
from math import inf
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import URLError

import safetensors.torch
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from filmvqa.features.images import IMAGES, FileKind, load_image
from filmvqa.system.disk import DISK_FULL_ERRNOS, disk_full_error
from filmvqa.system.errors import UserError, one_line
from filmvqa.system.files import sha256_of_file

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
#: That of the original FiLM code and of clevr-iep (scripts/extract_features.py).
ORIGINAL_FILM_STD = (0.229, 0.224, 0.224)
SHIPPED_WEIGHTS = "clevr_cnn.safetensors"


class Backbone(nn.Module):
    """Normalises uint8 images and runs ``network`` on them.

    ``weights`` is the name of the file of weights and ``weights_sha256`` its hash; feature files
    record both, so that a result can be traced.
    """

    mean: Tensor
    std: Tensor
    #: What the files of a split are, and the channels of what is made of them.
    file_kind: ClassVar[FileKind] = IMAGES
    input_channels: ClassVar[int] = 3

    def __init__(
        self,
        name: str,
        network: nn.Module,
        mean: tuple[float, ...] = IMAGENET_MEAN,
        std: tuple[float, ...] = IMAGENET_STD,
        *,
        stage: int = 0,
        weights: str = "",
        weights_sha256: str = "",
        dtype: str = "float16",
    ) -> None:
        super().__init__()
        self.name, self.stage = name, stage
        self.weights, self.weights_sha256 = weights, weights_sha256
        self.dtype = dtype
        self.network = network
        self.compute_dtype = torch.float32
        self.register_buffer("mean", torch.empty(1, len(mean), 1, 1))
        self.register_buffer("std", torch.empty(1, len(std), 1, 1))
        self.set_normalization(mean, std)

    def set_normalization(self, mean: Sequence[float], std: Sequence[float]) -> None:
        """Set the mean and the standard deviation of each channel, of pixels in [0, 1]."""
        self.mean = 255.0 * torch.tensor(mean).view(1, -1, 1, 1)
        self.std = 255.0 * torch.tensor(std).view(1, -1, 1, 1)

    def forward(self, images: Tensor) -> Tensor:
        """uint8 (N, 3, H, W) to feature maps (N, C, H', W')."""
        if isinstance(self.network, nn.Identity):
            return images
        out: Tensor = self.network(((images.float() - self.mean) / self.std).to(self.compute_dtype))
        return out

    def load(self, path: Path, size: tuple[int, int]) -> NDArray[Any]:
        """What is made of a file of a split, (C, H, W) with ``size`` = (H, W): a uint8 image."""
        return load_image(path, size)

    def spec(self) -> dict[str, Any]:
        """What identifies the network and its input: name, weights, stage, and the normalisation of
        pixels in [0, 1]."""
        return {
            "backbone": self.name,
            "weights": self.weights,
            "weights_sha256": self.weights_sha256,
            "stage": self.stage,
            "mean": self.mean.flatten().numpy() / 255.0,
            "std": self.std.flatten().numpy() / 255.0,
        }

    def prepared(self, device: torch.device, bfloat16: bool) -> Backbone:
        """A copy for fast inference: batch norms folded into the convolutions before them, channels
        last, and all in bfloat16 on request."""
        prepared = copy.deepcopy(self).eval()
        fold_batch_norms(prepared.network)
        prepared.compute_dtype = torch.bfloat16 if bfloat16 else torch.float32
        prepared.network.to(prepared.compute_dtype)
        return prepared.to(device).to(memory_format=torch.channels_last)


def fold_batch_norms(module: nn.Module) -> None:
    """Fold each batch norm in evaluation mode into the convolution that is registered directly
    before it, as in torchvision's ResNets and ``clevr_cnn``."""
    previous: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, nn.BatchNorm2d) and previous and isinstance(previous[1], nn.Conv2d):
            setattr(module, previous[0], fuse_conv_bn_eval(previous[1], child))
            setattr(module, name, nn.Identity())
        else:
            fold_batch_norms(child)
        previous = (name, child)


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


def build_backbone(
    name: str,
    stage: int = 3,
    weights: str | Path | None = None,
    std: Sequence[float] | None = None,
) -> Backbone:
    """A backbone in evaluation mode.

    Parameters
    ----------
    name
        ``pixels``, ``clevr_cnn`` or one of torchvision's ResNets (``resnet18`` …).
    stage
        For ResNets, the last stage that runs (1 to 4).
    weights
        A file: a torchvision state dict for ResNets, safetensors for ``clevr_cnn``. None takes
        torchvision's own download (ImageNet, V1) or the shipped weights.
    std
        For ResNets, the standard deviation of each channel that normalises pixels in [0, 1]; None:
        torchvision's.

    Raises
    ------
    UserError
        For an unknown name or stage, for weights that are missing or do not fit, and for a ``std``
        that is not three positive numbers or not of a ResNet.
    """
    if std is not None:
        is_list = isinstance(std, list | tuple) and len(std) == 3
        if not is_list or not all(isinstance(v, int | float) and 0 < v < inf for v in std):
            raise UserError(f"std={std}; give three positive numbers, of red, green and blue")
        if name in ("pixels", "clevr_cnn"):
            raise UserError(f"std={std}: {name} has its own normalisation; std is for ResNets")
        backbone = build_backbone(name, stage, weights)
        backbone.set_normalization(IMAGENET_MEAN, std)
        return backbone
    if name == "pixels":
        return Backbone(name, nn.Identity(), dtype="uint8").eval()
    if name == "clevr_cnn":
        return _build_clevr_cnn(weights)
    if re.fullmatch(r"(wide_)?resne(t|xt)\d+\w*", name):
        return _build_resnet(name, stage, weights)
    raise UserError(f"unknown backbone {name!r}; use pixels, clevr_cnn or a torchvision ResNet")


def backbone_from_spec(spec: Mapping[str, Any], weights: str | Path | None = None) -> Backbone:
    """The backbone that a feature file or a checkpoint records, in evaluation mode.

    Parameters
    ----------
    spec
        The attributes ``FEATURE_SPEC`` of a feature file.
    weights
        As in ``build_backbone``.

    Raises
    ------
    UserError
        If its weights cannot be had, or are not those recorded. An imported checkpoint records
        none; then any are taken.
    """
    weights_name = repr(spec["weights"]) if spec["weights"] else "of ImageNet"
    recorded = f"the backbone {spec['backbone']} with the weights {weights_name}"
    try:
        backbone = build_backbone(str(spec["backbone"]), int(spec["stage"]), weights)
    except UserError as error:
        raise UserError(f"{recorded} cannot be built: {error}") from None
    if spec["weights_sha256"] and backbone.weights_sha256 != spec["weights_sha256"]:
        raise UserError(
            f"{recorded} (SHA-256 {str(spec['weights_sha256'])[:12]}...) is needed, but "
            f"{backbone.weights!r} has other content; give backbone_weights=<file>"
        )
    backbone.set_normalization(spec["mean"], spec["std"])
    return backbone


def _build_clevr_cnn(weights: str | Path | None) -> Backbone:
    network = ClevrCNN()
    with as_file(files("filmvqa.backbones") / "weights" / SHIPPED_WEIGHTS) as shipped:
        path = Path(weights) if weights else shipped
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
    return Backbone("clevr_cnn", network, weights=path.name, weights_sha256=digest, stage=3).eval()


def _build_resnet(name: str, stage: int, weights: str | Path | None) -> Backbone:
    from torchvision import models

    if name not in models.list_models(module=models):
        raise UserError(f"torchvision has no network {name!r}; use for example resnet101")
    if not 1 <= stage <= 4:
        raise UserError(f"backbone.stage={stage}; a ResNet has stages 1 to 4 (the paper's is 3)")
    resnet = models.get_model(name, weights=None)
    source, digest, state = _resnet_weights(name, weights)
    try:
        resnet.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{source}: not weights of {name} ({one_line(error)})") from None
    layers = [resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool]
    layers += [getattr(resnet, f"layer{i}") for i in range(1, stage + 1)]
    return Backbone(
        name, nn.Sequential(*layers), stage=stage, weights=source, weights_sha256=digest
    ).eval()


def _resnet_weights(name: str, given: str | Path | None) -> tuple[str, str, dict[str, Tensor]]:
    """The name, the SHA-256 and the content of a file of weights: ``given``, or torchvision's."""
    from torchvision.models import get_model_weights

    entry = get_model_weights(name)["IMAGENET1K_V1"]
    published = entry.url.rpartition("/")[2]
    cached = Path(torch.hub.get_dir()) / "checkpoints" / published
    if given is None and not cached.exists():
        _download(entry, name, cached)
    path = cached if given is None else Path(given)
    if not path.exists():
        raise UserError(f"{path}: no such weights file")
    digest = sha256_of_file(path)
    # torchvision's names end in the beginning of the content's hash.
    beginning = re.search(r"-([0-9a-f]{8,})\.\w+$", published)
    if path.name == published and beginning and not digest.startswith(beginning[1]):
        raise UserError(
            f"{path}: is not what its name says (its SHA-256 begins with {digest[:8]}), but cut "
            f"short or another file; delete it and run again with network access, or put "
            f"{entry.url}, fetched elsewhere, in its place"
        )
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # torch raises half a dozen types for a file it cannot read
        if isinstance(error, OSError) and error.filename is not None:
            raise  # the system's, which names the file
        raise UserError(f"{path}: cannot be read as weights ({one_line(error)})") from None
    return path.name, digest, state


def _download(entry: Any, name: str, target: Path) -> None:
    """Let torchvision download the weights of a network to torch's cache."""
    try:
        entry.get_state_dict(progress=True, check_hash=True)
    except (URLError, HTTPException, OSError, RuntimeError) as error:
        if isinstance(error, OSError) and not isinstance(error, URLError):
            if error.errno in DISK_FULL_ERRNOS:
                raise disk_full_error(target, None, error) from None
            if error.filename is not None:
                raise  # the cache cannot be written
        raise UserError(
            f"{target.name}: the ImageNet weights of {name} could not be downloaded "
            f"({one_line(error)}); run again with network access, or fetch {entry.url} "
            f"elsewhere and give weights=<file> (or put it into {target.parent})"
        ) from None
