"""The masks of a split's objects, stored like features."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from numpy.typing import NDArray
from torch import nn

from filmvqa.backbones.backbone import Backbone
from filmvqa.features.images import MASKS, FileKind, load_mask


class ObjectMasks(Backbone):
    """Passes masks through: uint8 (N, 1, H, W) with the index of each place's object, or 255."""

    file_kind: ClassVar[FileKind] = MASKS
    input_channels: ClassVar[int] = 1

    def __init__(self) -> None:
        super().__init__("masks", nn.Identity(), dtype="uint8")

    def load(self, path: Path, size: tuple[int, int]) -> NDArray[Any]:
        return load_mask(path, size)
