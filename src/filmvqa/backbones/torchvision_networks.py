"""torchvision's networks: ``torchvision/<model>`` or ``torchvision/<model>.<weights>``.

Its ResNets also have plain names (``resnet101``), under which stages are counted as in the paper.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterator
from functools import partial
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from torch import Tensor, nn

from filmvqa.backbones.backbone import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    Backbone,
    BackboneOptions,
    register_backbone,
)
from filmvqa.backbones.library_networks import OneMap, choose_stage, library_backbone, try_image
from filmvqa.backbones.settings import RANDOM
from filmvqa.backbones.weight_files import drawn_alike, fit_weights, hash_weights, read_weights
from filmvqa.system.disk import DISK_FULL_ERRNOS, disk_full_error
from filmvqa.system.errors import UserError, one_line

_PREFIX = "torchvision/"
RESNETS = (
    "resnet18", "resnet34", "resnet50", "resnet101", "resnet152", "resnext50_32x4d",
    "resnext101_32x8d", "resnext101_64x4d", "wide_resnet50_2", "wide_resnet101_2",
)  # fmt: skip
#: Arguments of networks that torchvision would build differently without weights.
_AS_PUBLISHED = {
    name: {"transform_input": True, "init_weights": False} for name in ("googlenet", "inception_v3")
}
_OLDER_NAME = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])(?=\.)")
#: The paper's stage (section 4.1).
_RESNET_STAGE = 3


class ResNet(Backbone):
    """A ResNet up to one of its stages."""

    takes_std = True


@register_backbone(*RESNETS)
def build_resnet(name: str, options: BackboneOptions) -> Backbone:
    """A ResNet with the weights of a torchvision state dict; the default is torchvision's download
    (ImageNet, V1)."""
    from torchvision.models import get_model_weights

    stage = _RESNET_STAGE if options.stage is None else options.stage
    if not 1 <= stage <= 4:
        raise UserError(f"backbone.stage={stage}; a ResNet has stages 1 to 4 (the paper's is 3)")
    entry = get_model_weights(name)["IMAGENET1K_V1"]
    resnet, source, digest, state = _network(name, name, entry, options)
    whole = set(resnet.state_dict())
    resnet.fc = nn.Identity()
    if state is not None:
        fit_weights(resnet, state, whole, source, name)
    layers = [resnet.conv1, resnet.bn1, resnet.relu, resnet.maxpool]
    layers += [getattr(resnet, f"layer{i}") for i in range(1, stage + 1)]
    weights = Path(source).name
    return ResNet(name, nn.Sequential(*layers), stage=stage, weights=weights, weights_sha256=digest)


@register_backbone("torchvision/<model>")
def build_torchvision(name: str, options: BackboneOptions) -> Backbone:
    """A classifier of torchvision up to one of its maps.

    The maps are the last of each size, from large to small, among the outputs of the network's
    layers and of the layers in its sequences.

    Raises
    ------
    UserError
        If the network or its weights are unknown, the weights cannot be downloaded or do not fit,
        or the network has no maps.
    """
    from torchvision import models
    from torchvision.models.feature_extraction import create_feature_extractor

    model_name, _, weights_name = name.removeprefix(_PREFIX).partition(".")
    if model_name not in (all_models := models.list_models(models)):
        similar = difflib.get_close_matches(model_name, all_models, 3) or all_models
        raise UserError(
            f"data.backbone.name={name}: torchvision has no such network; use one of "
            f"{', '.join(_PREFIX + n for n in similar)}"
        )
    if model_name.startswith("vit_"):
        raise UserError(
            f"data.backbone.name={name}: torchvision has no feature maps of it; use a network of "
            "timm, such as timm/vit_base_patch16_224"
        )
    entries = models.get_model_weights(model_name).__members__
    if (weights_name or "DEFAULT") not in entries and (weights_name or options.weights is None):
        raise UserError(
            f"data.backbone.name={name}: torchvision has the weights "
            f"{', '.join(entries) or 'none'}; give one of them, or weights=<file>"
        )
    entry = entries.get(weights_name or "DEFAULT")
    network, source, digest, state = _network(name, model_name, entry, options)
    transform = getattr(entry, "transforms", lambda: None)()
    mean, std = IMAGENET_MEAN, IMAGENET_STD
    if transform is not None:
        mean, std = transform.mean, transform.std
    side = 224 if transform is None else transform.crop_size[0]
    channels_last = isinstance(network, models.SwinTransformer)
    size = options.image_size or (side, side)
    maps = _list_maps(name, network.eval(), size, channels_last)
    strides = [round(size[0] / height) for height, _ in maps]
    stage = choose_stage(name, options.stage, strides)
    layer = list(maps.values())[stage - 1]
    extractor = create_feature_extractor(network, {layer: "maps"}, suppress_diff_warning=True)
    if state is not None:
        fit_weights(extractor, state, network.state_dict().keys(), source, name)
    return library_backbone(
        name,
        OneMap(extractor, channels_last=channels_last),
        options,
        usual_size=(side, side),
        normalisation=(tuple(mean), tuple(std)),
        stage=stage,
        weights=Path(source).name,
        weights_sha256=digest,
    )


@torch.inference_mode()
def _list_maps(
    name: str, network: nn.Module, size: tuple[int, int], channels_last: bool
) -> dict[tuple[int, int], str]:
    """For each size (H, W) of maps, the path of the last layer that returns one."""
    maps: dict[tuple[int, int], str] = {}

    def note(path: str, layer: nn.Module, inputs: Any, output: Any) -> None:
        if isinstance(output, Tensor) and output.ndim == 4:
            height, width = output.shape[1:3] if channels_last else output.shape[2:]
            if height > 1 or width > 1:  # else a pooled image
                maps[height, width] = path

    hooks = [layer.register_forward_hook(partial(note, path)) for path, layer in _layers(network)]
    try:
        try_image(name, network, torch.zeros(1, 3, *size))
    finally:
        for hook in hooks:
            hook.remove()
    return maps


def _layers(network: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The paths and modules of a network's layers, with sequences replaced by their layers.

    The classifier is left out, since that of one network starts with a layer that returns a map.
    """
    for name, child in network.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList) and name != "classifier":
            yield from ((f"{name}.{inner}", layer) for inner, layer in child.named_children())
        elif name != "classifier":
            yield name, child


def _network(
    name: str, model_name: str, entry: Any, options: BackboneOptions
) -> tuple[Any, str, str, dict[str, Tensor] | None]:
    """Build a network of torchvision, and read its weights without loading them into it.

    Returns the network, and the file, SHA-256 and state dict of its weights. They come from
    ``options.weights``, or from torchvision's ``entry``. The state dict is None if the weights are
    random.
    """
    from torchvision import models

    with drawn_alike():
        network = models.get_model(model_name, weights=None, **_AS_PUBLISHED.get(model_name, {}))
    if options.weights == RANDOM:
        return network, RANDOM, hash_weights(network), None
    url = "" if entry is None else entry.url
    path = Path(options.weights or Path(torch.hub.get_dir(), "checkpoints", Path(url).name))
    if options.weights is None and not path.exists():
        _download(entry, name, path)
    digest, state = read_weights(path, url)
    if model_name.startswith("densenet"):  # its files have the names of an older PyTorch
        state = {_OLDER_NAME.sub(r"\1\2", k): v for k, v in state.items()}
    return network, str(path), digest, state


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
            f"({one_line(error)}); run again with network access, or download {entry.url} "
            f"elsewhere and give weights=<file> (or put it into {target.parent}), or use the "
            "shipped network (data.backbone.name=clevr_cnn, or data=clevr_small for CLEVR), or "
            "weights=random for a dry run"
        ) from None
