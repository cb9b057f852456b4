"""A data set and its files: the settings below ``configs/data``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from filmvqa.clevr.generator_settings import GeneratorSettings
from filmvqa.layout import DatasetLayout
from filmvqa.settings import (
    Fraction,
    ImageSize,
    MissingImages,
    Name,
    Natural,
    PathText,
    Positive,
    Settings,
    SplitName,
)


@dataclass(frozen=True)
class BackboneSettings(Settings):
    """The image network; ``stage`` is the last one of a ResNet that runs."""

    node: ClassVar[str] = "data.backbone"

    name: Name
    stage: Annotated[int, Meta(ge=1, le=4)] = 3


@dataclass(frozen=True)
class DownloadSettings(Settings):
    """An archive, and its MD5 in hexadecimal digits where its publisher gives one."""

    node: ClassVar[str] = "data.download"

    url: Name
    md5: Annotated[str, Meta(pattern="^[0-9a-f]{32}$", description="32 digits 0-9a-f")] | None


@dataclass(frozen=True, kw_only=True)
class CurriculumStage(Settings):
    """So many ``questions`` at the beginning of training, or after the stage before, that are drawn
    from those whose program has at most ``program_length`` functions, or from some ``families``, or
    from those of which both is true."""

    node: ClassVar[str] = "data.curriculum"

    questions: Positive
    program_length: Positive | None = None
    families: list[Natural] | None = None


@dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
    """Where a set's files lie, which of its splits are trained on, and how it is made.

    Attributes
    ----------
    root, images, h5, features
        As ``DatasetLayout.under`` takes them.
    missing_images
        What becomes of gaps in the images' numbers, and of questions about absent images.
    families
        The question families that are trained and validated on, or a JSON file with their list;
        None: all.
    fraction
        The part of the training images that are trained on.
    curriculum
        What is trained on first; None: all questions from the beginning.
    image_size
        (H, W) to which images are resized.
    generator, download
        How the set is made; None: not so.
    """

    node: ClassVar[str] = "data"

    name: Name
    root: PathText
    images: PathText
    h5: PathText
    features: PathText
    train_split: SplitName = "train"
    val_split: SplitName = "val"
    missing_images: MissingImages = "refuse"
    families: list[Natural] | PathText | None = None
    fraction: Fraction = 1.0
    curriculum: list[CurriculumStage] | None = None
    image_size: ImageSize
    backbone: BackboneSettings
    generator: GeneratorSettings | None = None
    download: DownloadSettings | None = None

    @property
    def layout(self) -> DatasetLayout:
        """The paths of the set's files."""
        return DatasetLayout.under(
            self.root, images=self.images, h5=self.h5, features=self.features,
            backbone=self.backbone.name,
        )  # fmt: skip
