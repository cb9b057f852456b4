"""Settings of the programs that make hints and correct segmentations with them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from filmvqa.evaluation.settings import AskedSettings
from filmvqa.settings.inputs import FOLDER
from filmvqa.settings.typed import PathText, Positive, Precision, Seed, SplitName


@dataclass(frozen=True, kw_only=True)
class SegmentingSettings(AskedSettings):
    """A segmentation network that was trained without language, and hints about its mistakes.

    Attributes
    ----------
    precision
        As ``autocast`` takes it.
    hints
        The largest number of hints about an image.
    seed
        The seed of the wording.
    """

    precision: Precision = "auto"
    hints: Positive = 5
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class MakeHintsSettings(SegmentingSettings):
    """A data set whose questions are hints.

    Attributes
    ----------
    output
        The root of the data set.
    splits
        Splits of the network's data. The network should not have been trained on them, because it
        makes fewer and different mistakes on training images.
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
        The folder of the sweep. Its runs began from the checkpoint; those of one conditioning
        differ in their seed.
    split
        The split whose images are corrected.
    output
        The folder of the report; None: the sweep's.
    """

    dir: Annotated[PathText, FOLDER]
    split: SplitName = "test"
    output: PathText | None = None
