"""Correcting hint by hint: predict, say the largest mistake that is left, predict again."""

from __future__ import annotations

import random
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from filmvqa.evaluation.predictions import evaluating
from filmvqa.models.fast.precision import choose_precision
from filmvqa.questions.dataset import padded
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.devices import autocast
from filmvqa.uses.correction.hints import join_hints, largest_unsaid, mistakes, word_hint
from filmvqa.uses.correction.segmented_images import LabelMaps, SegmentedImages


@dataclass(frozen=True)
class Course:
    """A correction of N images by up to K hints each.

    Attributes
    ----------
    predictions
        (K + 1, N, h, w) before, and after each hint. An image about which there is nothing more to
        say keeps its prediction.
    hints
        Of each image, those that were given in turn.
    """

    predictions: LabelMaps
    hints: list[list[str]]

    def hinted(self, count: int) -> int:
        """To how many images at least ``count`` hints were given."""
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
    """Correct the predictions for images by a network that takes hints.

    Parameters
    ----------
    model, vocabulary
        The network, on the device of the images' data, and its words.
    hints
        How many are given at most.
    seed
        Of the wording.
    others
        Give each image the hint that is worded for the next one that has a mistake: what hints do
        that are not about the image. (Where one image alone is left, it gets no more.)
    """
    predictions = segmented.predictions.copy()
    rounds = [predictions.copy()]
    given: list[list[str]] = [[] for _ in range(len(segmented))]
    said: list[set[tuple[int, tuple[int, int]]]] = [set() for _ in range(len(segmented))]
    rngs = [random.Random(f"{seed} {image}") for image in segmented.images.tolist()]
    for _ in range(hints):
        texts = {}
        for i in range(len(segmented)):
            found = mistakes(predictions[i], segmented.truths[i], segmented.objects[i])
            mistake = largest_unsaid(found, said[i])
            if mistake is not None:
                said[i].add(mistake.content)
                texts[i] = word_hint(mistake, rngs[i])
        if others:
            rotated = [*list(texts.values())[1:], *list(texts.values())[:1]]
            texts = dict(zip(texts, rotated, strict=True)) if len(texts) > 1 else {}
        for i, text in texts.items():
            given[i].append(text)
        places = list(texts)
        for first in range(0, len(places), batch_size):
            some = places[first : first + batch_size]
            questions = padded([vocabulary.encode(join_hints(given[i])) for i in some])
            predictions[some] = _predict(segmented, model, some, questions, precision)
        rounds.append(predictions.copy())
    return Course(np.stack(rounds), given)


def _predict(
    segmented: SegmentedImages, model: nn.Module, places: list[int], questions: Tensor,
    precision: str,
) -> LabelMaps:  # fmt: skip
    store = segmented.asked.loader.store
    precision = choose_precision(model, store.device, precision)
    with evaluating(model), autocast(store.device, precision):
        features = store.read(segmented.images[places], torch.channels_last)
        labels: LabelMaps = model(features, questions).argmax(1).cpu().numpy().astype(np.uint8)
    return labels
