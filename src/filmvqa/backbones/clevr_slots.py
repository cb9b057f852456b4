"""Object slots: an image as a list of the objects that ``clevr_cnn``'s heads find.

Pretraining of the heads uses the scenes, so results of networks that read slots include this
supervision of the number of objects and their positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from filmvqa.backbones.backbone import Backbone, BackboneOptions, register_backbone
from filmvqa.backbones.clevr_cnn import ClevrCNN, with_heads
from filmvqa.backbones.labelled_images import STRIDE
from filmvqa.backbones.object_heads import IS_OBJECT, ObjectHeads, find_objects, predict_centres

#: The number of slots by the backbone's name: for CLEVR's 10 objects, and for small worlds.
SLOTS = {"clevr_slots": 10, "clevr_slots_6": 6}
#: The first of the last three channels: x and y of the object's centre, from -1 to 1 in the image,
#: and the object's probability.
_X = -3


class ObjectSlots(nn.Module):
    """Up to ``count`` objects as a map of ``count`` slots: (N, 3, H, W) to (N, C + 3, count, 1).

    A slot has the features of the cell that is the object's place, the x and y of the object's
    centre in the image, and the object's probability. Slots without an object are 0. The most
    probable objects come first.
    """

    def __init__(self, network: ClevrCNN, heads: ObjectHeads, count: int) -> None:
        super().__init__()
        self.network, self.heads, self.count = network, heads, count

    def forward(self, x: Tensor) -> Tensor:
        maps = self.network(x)  # (N, C, h, w)
        _, places, offsets = self.heads(maps)
        probabilities, cells = find_objects(places, offsets, self.count)  # (N, count)
        sides = torch.tensor(maps.shape[:1:-1], device=x.device).view(1, 2, 1, 1)
        xy = 2 * predict_centres(offsets) / sides - 1  # (N, 2, h, w)
        each = torch.cat([maps.float(), xy], 1).flatten(2)  # (N, C + 2, hw)
        slots = each.gather(2, cells[:, None].expand(-1, each.shape[1], -1))
        slots = torch.cat([slots, probabilities[:, None]], 1)  # (N, C + 3, count)
        slots = slots * (probabilities > IS_OBJECT)[:, None]
        missing = self.count - slots.shape[2]  # above 0 if the image has fewer cells than slots
        return nn.functional.pad(slots, (0, missing))[..., None].to(maps.dtype)


def on_picture(spec: Mapping[str, Any] | None, features: Tensor, values: Tensor) -> Tensor:
    """Lay out values (..., h, w) of an image's features (C, h, w) as maps of the image.

    If ``spec``, the attributes ``FEATURE_SPEC`` of a feature file, is of slots, each value is put
    at the position of its slot's object, and the lowest value elsewhere. Other values are maps of
    the image already and are returned unchanged.
    """
    if spec is None or spec["backbone"] not in SLOTS or values.shape[-2:] != features.shape[1:]:
        return values
    taken = features[-1, :, 0] > 0  # (count,)
    height, width = (int(side) // STRIDE for side in spec["image_size"])
    x, y = ((features[_X : _X + 2, taken, 0].float().cpu() + 1) / 2).clamp(0, 1 - 1e-6)
    laid = values.amin((-2, -1), keepdim=True).expand(*values.shape[:-2], height, width).clone()
    laid[..., (y * height).long(), (x * width).long()] = values[..., taken.cpu(), 0]
    return laid


def slot_positions(spec: Mapping[str, Any] | None, features: Tensor) -> Tensor | None:
    """The x and y of each slot's object (U, count, 2) as fractions of the image's width and height.

    ``features`` are (U, C, count, 1). Slots without an object are at infinity. Returns None if
    ``spec`` is not of slots.
    """
    if spec is None or spec["backbone"] not in SLOTS:
        return None
    slots = features[..., 0].float()  # (U, C, count)
    xy = (slots[:, _X : _X + 2] + 1) / 2
    return xy.masked_fill(slots[:, -1:] <= 0, torch.inf).transpose(1, 2)


@register_backbone(*SLOTS)
def build_slots(name: str, options: BackboneOptions) -> Backbone:
    """``ObjectSlots`` with the weights of a safetensors file, or the shipped weights."""
    count = SLOTS[name]
    return with_heads(name, options, lambda network, heads: ObjectSlots(network, heads, count))
