"""Label maps as targets: the class of what each place of an image shows."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from filmvqa.features.store import FeatureStore
from filmvqa.questions.dataset import QuestionDataset
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.devices import to_device
from filmvqa.system.errors import UserError
from filmvqa.tasks.labels import BACKGROUND, LABELS, NO_OBJECT, label_of
from filmvqa.tasks.shown_objects import ShownObjects
from filmvqa.worlds.clevr.scene_file import read_scenes

#: Stands in the table of labels for objects that a scene does not have.
_ABSENT = 255


class LabelMapTargets(ShownObjects):
    """The label of each place, int64 (B, h, w), whatever is asked about the image.

    Parameters
    ----------
    scenes
        The scenes of these images, which say what the objects are.

    Raises
    ------
    UserError
        For an image without a scene, or with an object that its scene does not have or that has no
        class.
    """

    kind: ClassVar[str] = "label_maps"
    noun: ClassVar[str] = "label maps"

    def __init__(self, store: FeatureStore, path: Path, scenes: Path) -> None:
        super().__init__(store, path)
        self._table = self._labels_of_objects(scenes)  # (images, 256)
        self._check(scenes)

    def _labels_of_objects(self, path: Path) -> Tensor:
        indices = self.store.image_idxs.tolist()
        table = torch.full((max(indices, default=-1) + 1, NO_OBJECT + 1), _ABSENT).to(torch.uint8)
        table[:, NO_OBJECT] = BACKGROUND
        scenes = {scene.image_index: scene.objects for scene in read_scenes(path).scenes}
        for image in indices:
            if image not in scenes:
                raise UserError(f"{path}: has no scene of image {image}; add it, or make it again")
            labels = [label_of(scene_object, path) for scene_object in scenes[image]]
            table[image, : len(labels)] = torch.tensor(labels, dtype=torch.uint8)
        return to_device(table, self.store.device)

    def _check(self, scenes: Path) -> None:
        """Raise ``UserError`` if a map shows an object that its scene does not have."""
        images = torch.from_numpy(self.store.image_idxs.astype("int64"))
        for first in range(0, len(images), 1024):
            some = images[first : first + 1024]
            wrong = (self.maps(some) == _ABSENT).flatten(1).any(1)
            if bool(wrong.any()):
                image = int(some[int(wrong.int().argmax())])
                raise UserError(
                    f"{self.path}: image {image} shows an object that its scene in {scenes} does "
                    "not have; make both again"
                )

    def maps(self, images: Tensor) -> Tensor:
        """The label maps (U, h, w), uint8 on the device, of sorted distinct images (U,)."""
        shown = self.objects(images)
        tables = self._table[to_device(images, self.store.device)]  # (U, 256)
        return tables.gather(1, shown.flatten(1).long()).view(shown.shape)

    def known(self, questions: QuestionDataset) -> bool:
        return True

    def read(
        self,
        questions: QuestionDataset,
        rows: Tensor,
        images: Tensor,
        image_of_question: Tensor,
        device: torch.device,
    ) -> Tensor | None:
        return self.maps(images)[to_device(image_of_question, device)].long()

    def output_options(self, vocabulary: Vocabulary) -> dict[str, Any]:
        return {"mask_size": list(self.store.shape[1:]), "num_maps": len(LABELS)}

    def inputs(self) -> dict[str, Any]:
        labels = hashlib.sha256(self._table.cpu().numpy().tobytes()).hexdigest()
        return {**super().inputs(), "labels": labels}
