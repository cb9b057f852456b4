"""Backbones built from a config's name, or from the record in a feature file or checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import inf
from pathlib import Path
from typing import Any

# These modules register their backbones.
import filmvqa.backbones.clevr_cnn
import filmvqa.backbones.clevr_slots
import filmvqa.backbones.efficientnet_lite
import filmvqa.backbones.pixels
import filmvqa.backbones.spectrograms
import filmvqa.backbones.timm_networks
import filmvqa.backbones.torchvision_networks  # noqa: F401
from filmvqa.backbones.backbone import BACKBONES, IMAGENET_MEAN, Backbone, BackboneOptions
from filmvqa.backbones.settings import RANDOM
from filmvqa.features.feature_file import FRONT_END
from filmvqa.system.errors import UserError


def build_backbone(
    name: str,
    stage: int | None = None,
    weights: str | Path | None = None,
    std: Sequence[float] | None = None,
    front_end: str | None = None,
    image_size: tuple[int, int] | None = None,
) -> Backbone:
    """A backbone in evaluation mode.

    Parameters
    ----------
    name
        ``pixels``, ``clevr_cnn``, one of torchvision's ResNets (``resnet18`` …),
        ``timm/<model>``, ``torchvision/<model>``, or another registered name.
    stage, weights, front_end, image_size
        As in ``BackboneOptions``.
    std
        For ResNets, the standard deviation of each channel that normalises pixels in [0, 1]; None
        selects torchvision's.

    Raises
    ------
    UserError
        If the name or stage is unknown, the weights are missing or do not fit, or ``std`` is not
        three positive numbers or the backbone is not a ResNet.
    """
    if std is not None:
        is_list = isinstance(std, list | tuple) and len(std) == 3
        if not is_list or not all(isinstance(v, int | float) and 0 < v < inf for v in std):
            raise UserError(f"std={std}; give three positive numbers, of red, green and blue")
    build = BACKBONES.get(name) or BACKBONES.get(f"{name.partition('/')[0]}/<model>")
    if build is None:
        raise UserError(
            f"unknown backbone {name!r}; use one of {', '.join(BACKBONES)}, or name the file that "
            "registers it (imports=[<module>])"
        )
    backbone = build(name, BackboneOptions(stage, weights, front_end, image_size))
    if std is not None:
        if not backbone.takes_std:
            raise UserError(f"std={std}: {name} has its own normalisation; std is for ResNets")
        backbone.set_normalization(IMAGENET_MEAN, std)
    return backbone.eval()


def backbone_from_spec(spec: Mapping[str, Any], weights: str | Path | None = None) -> Backbone:
    """The backbone that a feature file or checkpoint records, in evaluation mode.

    Parameters
    ----------
    spec
        The attributes ``FEATURE_SPEC`` of a feature file.
    weights
        As in ``build_backbone``.

    Raises
    ------
    UserError
        If the backbone cannot be built, or its weights are not the recorded ones. An imported
        checkpoint records no weights and accepts any.
    """
    weights_name = repr(spec["weights"]) if spec["weights"] else "of ImageNet"
    recorded = f"the backbone {spec['backbone']} with the weights {weights_name}"
    if weights is None and spec["weights"] == RANDOM:
        weights = RANDOM
    size = spec.get("image_size")
    try:
        backbone = build_backbone(
            str(spec["backbone"]),
            int(spec["stage"]),
            weights,
            front_end=spec.get(FRONT_END),
            image_size=None if size is None else (int(size[0]), int(size[1])),
        )
    except UserError as error:
        raise UserError(f"{recorded} cannot be built: {error}") from None
    if spec["weights_sha256"] and backbone.weights_sha256 != spec["weights_sha256"]:
        raise UserError(
            f"{recorded} (SHA-256 {str(spec['weights_sha256'])[:12]}...) is needed, but "
            f"{backbone.weights!r} has other content; give backbone_weights=<file>"
        )
    backbone.set_normalization(spec["mean"], spec["std"])
    return backbone
