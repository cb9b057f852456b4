"""Which object each place of an image shows: what targets about images are made of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from filmvqa.features.store import FeatureStore


class ShownObjects:
    """The base of such targets.

    Parameters
    ----------
    store
        The index of the object (U, 1, h, w) that each place of an image shows, ``NO_OBJECT`` where
        there is none.
    path
        Of its file.
    """

    def __init__(self, store: FeatureStore, path: Path) -> None:
        self.store, self.path = store, path

    def objects(self, images: Tensor) -> Tensor:
        """The index of the object (U, h, w) that each place shows, of sorted distinct images (U,),
        on the device."""
        return self.store.read(images)[:, 0]

    def inputs(self) -> dict[str, Any]:
        """What identifies the files that targets are made of beside the questions."""
        return {"masks": self.store.sha256}

    def close(self) -> None:
        """Release these files."""
        self.store.close()
