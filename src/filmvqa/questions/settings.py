"""A data set and its files: the settings below ``configs/data``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from msgspec import Meta

from filmvqa.backbones.spectrogram_settings import SPECTROGRAM, SpectrogramSettings
from filmvqa.settings.typed import (
    GROUPS,
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
from filmvqa.worlds.engine.set_settings import SET_KINDS, SetKind
from filmvqa.worlds.engine.world import World, read_world


def _set_settings() -> Mapping[str, type[Settings]]:
    return {key: kind.settings for key, kind in SET_KINDS.items()}


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
    generated
        How a set is generated, by the key of its world's settings (``register_set_settings``):
        ``generator`` for images of CLEVR's world, ``sound`` for recordings of the world of sounds.
    download
        The archive that a set is from; None: there is none.
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
    generated: dict[str, Settings] = field(default_factory=dict, metadata={GROUPS: _set_settings})
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
    def _kind(self) -> SetKind | None:
        """The kind of generated set; None: it is from an archive, or is a user's own."""
        return next((SET_KINDS[key] for key in self.generated), None)

    @property
    def world(self) -> World:
        """What the set's questions are about."""
        return read_world("clevr" if self._kind is None else self._kind.world)

    def set_settings(self, key: str) -> Settings:
        """How the set is generated; ``UserError`` for one that is made otherwise."""
        if key not in self.generated:
            program = "download_clevr" if self._kind is None else self._kind.program
            raise UserError(
                f"data={self.name} is not generated so; run scripts/{program}.py data={self.name}"
            )
        return self.generated[key]

    @property
    def layout(self) -> DatasetLayout:
        """The paths of the set's files."""
        prefix = "CLEVR" if self._kind is None else self._kind.prefix
        return DatasetLayout.under(
            self.root, images=self.images, h5=self.h5, features=self.features,
            backbone=self.backbone.name, prefix=prefix,
        )  # fmt: skip
