"""The images of a split, segmented by a network without language."""

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
    """N images of a split, and their segmentation by a network without language.

    Attributes
    ----------
    asked
        The network and its data.
    split
        The split of the images.
    images
        (N,) indices of the images, sorted.
    predictions, truths
        (N, h, w) label maps.
    objects
        (N, h, w) the index of the object in each cell, or ``NO_OBJECT``.
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
    """Segment the images of a split that have questions; the data stay open within the block.

    Raises
    ------
    UserError
        For an unusable checkpoint or data file, and for a network that makes no label maps or is
        conditioned on language.
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
    """The distinct images (U,) of questions about images (N,), sorted, and the first row (U,) of
    each."""
    distinct, rows = np.unique(images.numpy(), return_index=True)
    return torch.from_numpy(distinct), torch.from_numpy(rows)
