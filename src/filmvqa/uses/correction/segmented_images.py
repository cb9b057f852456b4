"""A segmentation network, and the images of a split that it segments."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from filmvqa.evaluation.evaluate import AskedQuestions, open_questions
from filmvqa.evaluation.predictions import predict
from filmvqa.models.protocols import is_modulated
from filmvqa.system.errors import UserError
from filmvqa.tasks.label_maps import LabelMapTargets
from filmvqa.uses.correction.settings import SegmentingSettings

LabelMaps = NDArray[np.uint8]


@dataclass(frozen=True)
class SegmentedImages:
    """N images of a split, and what a network without language makes of them.

    Attributes
    ----------
    asked
        The network and its data.
    split
        Their split.
    images
        (N,) their indices, sorted.
    predictions, truths
        Label maps (N, h, w).
    objects
        (N, h, w) the object that each place shows, ``NO_OBJECT`` where there is none.
    """

    asked: AskedQuestions
    split: str
    images: Tensor
    predictions: LabelMaps
    truths: LabelMaps
    objects: LabelMaps

    def __len__(self) -> int:
        return len(self.images)


@contextmanager
def open_segmented_images(settings: SegmentingSettings, split: str) -> Iterator[SegmentedImages]:
    """Open the images of a split that have questions, segmented by the network of a checkpoint, for
    the block's time.

    Raises
    ------
    UserError
        For an unusable checkpoint or data file, or a network that does not make label maps, or that
        language acts on.
    """
    with open_questions(settings, split) as asked:
        targets = asked.loader.targets
        if not isinstance(targets, LabelMapTargets):
            raise UserError(
                f"{asked.checkpoint}: makes no label maps; give a network of model=film_label_maps"
            )
        if is_modulated(asked.model):
            raise UserError(
                f"{asked.checkpoint}: language acts on this network; give one that was trained "
                "without it (model.film_blocks all false)"
            )
        images, rows = find_first_rows(asked.loader.questions.images)
        predictions = predict(
            asked.model, asked.loader, rows, precision=settings.precision, progress=False
        )
        maps = (predictions, targets.maps(images), targets.objects(images))
        yield SegmentedImages(
            asked, split, images, *(m.cpu().numpy().astype(np.uint8) for m in maps)
        )


def find_first_rows(images: Tensor) -> tuple[Tensor, Tensor]:
    """The distinct images (U,), sorted, and the first row (U,) of each among those (N,) of some
    questions."""
    distinct, rows = np.unique(images.numpy(), return_index=True)
    return torch.from_numpy(distinct), torch.from_numpy(rows)
