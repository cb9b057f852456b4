"""torchvision's ResNets, with its ImageNet weights or those of a file."""

from __future__ import annotations

import re
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from filmvqa.backbones.backbone import Backbone, BackboneOptions, register_backbone
from filmvqa.system.disk import DISK_FULL_ERRNOS, disk_full_error
from filmvqa.system.errors import UserError, one_line
from filmvqa.system.files import sha256_of_file

RESNETS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d",
    "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip


class ResNet(Backbone):
    """A ResNet through one of its stages."""

    takes_std = True


@register_backbone(*RESNETS)
def build_resnet(name: str, options: BackboneOptions) -> Backbone:
    """A ResNet with the weights of a torchvision state dict, or torchvision's own download
    (ImageNet, V1)."""
    from torchvision import models

    stage = options.stage
    if not 1 <= stage <= 4:
        raise UserError(f"backbone.stage={stage}; a ResNet has stages 1 to 4 (the paper's is 3)")
    resnet = models.get_model(name, weights=None)
    source, digest, state = _resnet_weights(name, options.weights)
    try:
        resnet.load_state_dict(state)
    except (RuntimeError, TypeError, AttributeError) as error:
        raise UserError(f"{source}: not weights of {name} ({one_line(error)})") from None
    layers = [resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool]
    layers += [getattr(resnet, f"layer{i}") for i in range(1, stage + 1)]
    return ResNet(name, nn.Sequential(*layers), stage=stage, weights=source, weights_sha256=digest)


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
