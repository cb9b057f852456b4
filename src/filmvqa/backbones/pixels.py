"""A backbone without a network, which passes pixels through."""

from __future__ import annotations

from torch import nn

from filmvqa.backbones.backbone import Backbone, BackboneOptions, register_backbone

#: The name of this backbone.
PIXELS = "pixels"


@register_backbone(PIXELS)
def build_pixels(name: str, options: BackboneOptions) -> Backbone:
    """Unchanged uint8 images (N, 3, H, W)."""
    return Backbone(name, nn.Identity(), dtype="uint8")
