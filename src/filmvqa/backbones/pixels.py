"""No network: the pixels of images as they are."""

from __future__ import annotations

from torch import nn

from filmvqa.backbones.backbone import Backbone, BackboneOptions, register_backbone

#: The name of this backbone.
PIXELS = "pixels"


@register_backbone(PIXELS)
def build_pixels(name: str, options: BackboneOptions) -> Backbone:
    """Images (N, 3, H, W) as they are, uint8."""
    return Backbone(name, nn.Identity(), dtype="uint8")
