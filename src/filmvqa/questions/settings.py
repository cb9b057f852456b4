"""A data set and its files: the settings below ``configs/data``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from filmvqa.backbones.spectrogram_settings import SPECTROGRAM, SpectrogramSettings
from filmvqa.settings.typed import (
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
from filmvqa.system.errors import UserError
from filmvqa.system.layout import DatasetLayout
from filmvqa.worlds.clevr.generator_settings import GeneratorSettings
from filmvqa.worlds.engine.world import CLEVR, World, read_world
from filmvqa.worlds.sound.settings import SoundSettings


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
    mask_size
        (H, W) to which the masks of a set that has them are brought; None: they are not read.
    generator, sound, download
        How the set is made: as images of CLEVR's world, as recordings of the world of sounds, or
        from an archive; None: not so.
    spectrogram
        How recordings become spectrograms; None: the set has images.
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
    mask_size: ImageSize | None = None
    backbone: BackboneSettings
    generator: GeneratorSettings | None = None
    sound: SoundSettings | None = None
    spectrogram: SpectrogramSettings | None = None
    download: DownloadSettings | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.backbone.name == SPECTROGRAM) != (self.spectrogram is not None):
            given = "null" if self.spectrogram is None else "{...}"
            raise UserError(
                f"data.backbone.name={self.backbone.name}: does not fit data.spectrogram={given}; "
                f"recordings take {SPECTROGRAM} with such settings, images another without"
            )

    @property
    def world(self) -> World:
        """What the set's questions are about."""
        return CLEVR if self.sound is None else read_world("sound")

    def how_made(self) -> str:
        """The command that makes the set."""
        name = next(
            name
            for name, how in (
                ("generate_clevr", self.generator), ("generate_sound", self.sound),
                ("download_clevr", True),
            )
            if how is not None
        )  # fmt: skip
        return f"run scripts/{name}.py data={self.name}"

    @property
    def layout(self) -> DatasetLayout:
        """The paths of the set's files."""
        return DatasetLayout.under(
            self.root, images=self.images, h5=self.h5, features=self.features,
            backbone=self.backbone.name, prefix="CLEVR" if self.sound is None else "SOUND",
        )  # fmt: skip
