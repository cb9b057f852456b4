"""Correction hint by hint: predict, name the largest mistake that is left, predict again."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from filmvqa.evaluation.predictions import evaluating
from filmvqa.models.fast.precision import choose_precision
from filmvqa.questions.dataset import padded
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.devices import autocast
from filmvqa.uses.correction.hints import join_hints, largest_unsaid, mistakes, word_hint
from filmvqa.uses.correction.segmented_images import LabelMaps, SegmentedImages


@dataclass(frozen=True)
class Course:
    """A correction of N images with up to K hints each.

    Attributes
    ----------
    predictions
        (K + 1, N, h, w) label maps before and after each hint. An image without more mistakes to
        name keeps its prediction.
    hints
        The hints about each image, in order.
    """

    predictions: LabelMaps
    hints: list[list[str]]

    def hinted(self, count: int) -> int:
        """The number of images with at least ``count`` hints."""
        return sum(len(hints) >= count for hints in self.hints)


def correct(
    segmented: SegmentedImages,
    model: nn.Module,
    vocabulary: Vocabulary,
    *,
    hints: int = 5,
    seed: int = 0,
    others: bool = False,
    batch_size: int = 256,
    precision: str = "auto",
) -> Course:
    """Correct the predictions for images with a network that reads hints.

    Parameters
    ----------
    model, vocabulary
        The network, on the device of the images' data, and its vocabulary.
    hints
        The largest number of hints for an image.
    seed
        The seed of the wording.
    others
        Give each image the hint for the next image that has a mistake, as a control. An image that
        is the only one left gets no more hints.
    """
    store = segmented.asked.loader.store
    precision = choose_precision(model, store.device, precision)
    predictions = segmented.predictions.copy()
    rounds = [predictions.copy()]
    hints_of_image: list[list[str]] = [[] for _ in range(len(segmented))]
    named: list[set[tuple[int, tuple[int, int]]]] = [set() for _ in range(len(segmented))]
    rngs = [random.Random(f"{seed} {image}") for image in segmented.images.tolist()]
    for _ in range(hints):
        new_hints: dict[int, str] = {}
        for i in range(len(segmented)):
            left = mistakes(predictions[i], segmented.truths[i], segmented.objects[i])
            mistake = largest_unsaid(left, named[i])
            if mistake is not None:
                named[i].add(mistake.content)
                new_hints[i] = word_hint(mistake, rngs[i])
        if others:
            texts = list(new_hints.values())
            rotated = texts[1:] + texts[:1]
            new_hints = dict(zip(new_hints, rotated, strict=True)) if len(texts) > 1 else {}
        for i, text in new_hints.items():
            hints_of_image[i].append(text)
        hinted = list(new_hints)
        for start in range(0, len(hinted), batch_size):
            places = hinted[start : start + batch_size]
            questions = padded([vocabulary.encode(join_hints(hints_of_image[i])) for i in places])
            with evaluating(model), autocast(store.device, precision):
                features = store.read(segmented.images[places], torch.channels_last)
                predictions[places] = model(features, questions).argmax(1).cpu().numpy()
        rounds.append(predictions.copy())
    return Course(np.stack(rounds), hints_of_image)
