"""Hints about a network's mistakes, and corrections by them: settings of programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from filmvqa.evaluation.settings import AskedSettings
from filmvqa.settings.inputs import FOLDER
from filmvqa.settings.typed import PathText, Positive, Precision, Seed, SplitName


@dataclass(frozen=True, kw_only=True)
class SegmentingSettings(AskedSettings):
    """The checkpoint of a segmentation network that was trained without language, whose mistakes
    are put into words.

    Attributes
    ----------
    precision
        As ``autocast`` takes it.
    hints
        About one image at most.
    seed
        Of the wording.
    """

    precision: Precision = "auto"
    hints: Positive = 5
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class MakeHintsSettings(SegmentingSettings):
    """A set whose questions are hints.

    Attributes
    ----------
    output
        The root of the set.
    splits
        Of the network's data. It should not have been trained on them, since on images that it
        knows it makes fewer mistakes, and others.
    """

    output: PathText
    splits: Annotated[list[SplitName], Meta(min_length=1)] = field(
        default_factory=lambda: ["train", "val"]
    )


@dataclass(frozen=True, kw_only=True)
class CorrectSettings(SegmentingSettings):
    """A correction of the network's predictions by each network of a sweep.

    Attributes
    ----------
    dir
        The folder of the sweep, whose runs began from the checkpoint. Those of one conditioning
        differ in their seed.
    split
        Whose images are corrected.
    output
        The folder of the report; None: that of the sweep.
    """

    dir: Annotated[PathText, FOLDER]
    split: SplitName = "test"
    output: PathText | None = None
