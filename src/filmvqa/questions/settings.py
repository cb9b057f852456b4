"""A data set and its files: the settings below ``configs/data``."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Annotated, ClassVar

from msgspec import Meta

from filmvqa.backbones.spectrogram_settings import SPECTROGRAM, SpectrogramSettings
from filmvqa.settings.annotations import GROUPS
from filmvqa.settings.effects import Effect
from filmvqa.settings.inputs import FILE, FOLDER
from filmvqa.settings.typed import (
    Fraction,
    ImageSize,
    Incomplete,
    MissingImages,
    Name,
    Natural,
    PathText,
    Positive,
    Probability,
    ProgramSettings,
    Settings,
    SplitName,
)
from filmvqa.system.errors import UserError
from filmvqa.system.files import read_bytes
from filmvqa.system.layout import DatasetLayout
from filmvqa.worlds.engine.schema import decode_json
from filmvqa.worlds.engine.set_settings import SET_KINDS, SetKind
from filmvqa.worlds.engine.world import World, read_world

_Families = Annotated[list[Natural], Meta(min_length=1)]


@dataclass(frozen=True)
class BackboneSettings(Settings):
    """The image network; ``stage`` is the last one of a ResNet that runs, or says which of the maps
    of timm's and torchvision's networks is taken, from 1; None: the paper's third, or the last with
    as many places."""

    node: ClassVar[str] = "data.backbone"

    name: Name = "resnet101"
    stage: Annotated[int, Meta(ge=1, le=1000)] | None = None


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

    name: Annotated[Name, Effect.DATA]
    root: Annotated[PathText, Effect.DATA]
    images: Annotated[PathText | None, Effect.DATA] = None
    h5: Annotated[PathText | None, Effect.DATA] = None
    features: Annotated[PathText | None, Effect.DATA] = None
    train_split: SplitName = "train"
    val_split: SplitName = "val"
    missing_images: Annotated[MissingImages, Effect.DATA] = "refuse"
    families: _Families | PathText | None = None
    fraction: Fraction = 1.0
    curriculum: list[CurriculumStage] | None = None
    image_size: Annotated[ImageSize, Effect.DATA] = (224, 224)
    mask_size: Annotated[ImageSize | None, Effect.DATA] = None
    backbone: Annotated[BackboneSettings, Effect.DATA] = field(default_factory=BackboneSettings)
    generated: Annotated[dict[str, Settings], Effect.DATA] = field(
        default_factory=dict,
        metadata={GROUPS: lambda: {key: kind.settings for key, kind in SET_KINDS.items()}},
    )
    spectrogram: Annotated[SpectrogramSettings | None, Effect.DATA] = None
    download: Annotated[DownloadSettings | None, Effect.DATA] = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.backbone.name == SPECTROGRAM) != (self.spectrogram is not None):
            given = "null" if self.spectrogram is None else "{...}"
            raise UserError(
                f"data.backbone.name={self.backbone.name}: does not fit data.spectrogram={given}; "
                f"recordings take {SPECTROGRAM} with such settings, images another without"
            )

    @cached_property
    def chosen_families(self) -> list[int] | None:
        """``families`` as numbers, of which a file may have the list, as film's
        ``family_split_file``; None: all.

        Raises
        ------
        UserError
            If the file cannot be read, or has no list of numbers.
        """
        numbers = self.families
        if isinstance(numbers, str):
            content = read_bytes(numbers, "give data.families a file")
            remedy = "give a list of families' numbers such as [0, 5, 17]"
            numbers = decode_json(content, _Families, numbers, remedy)
        return None if numbers is None else sorted(set(numbers))

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
            other = "import_questions" if self.download is None else "download_clevr"
            program = other if self._kind is None else self._kind.program
            raise UserError(
                f"data={self.name} is not generated so; run scripts/{program}.py data={self.name}"
            )
        return self.generated[key]

    def check_trained_on(self) -> None:
        """Raise ``UserError`` unless the files are there that training reads."""
        layout, splits = self.layout, (self.train_split, self.val_split)
        made = {layout.vocabulary: "preprocess_questions"}
        made |= {layout.question_h5(split): "preprocess_questions" for split in splits}
        made |= {layout.feature_h5(split): "extract_features" for split in splits}
        for path, program in made.items():
            if not path.exists():
                raise UserError(f"{path}: no such file; make it with scripts/{program}.py")

    @property
    def layout(self) -> DatasetLayout:
        """The paths of the set's files."""
        prefix = "CLEVR" if self._kind is None else self._kind.prefix
        return DatasetLayout.under(
            self.root, images=self.images, h5=self.h5, features=self.features,
            backbone=self.backbone.name, prefix=prefix,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class DataProgramSettings(ProgramSettings):
    """A program for a data set.

    Attributes
    ----------
    data
        The set, such as ``data=mini``.
    """

    data: DataSettings


@dataclass(frozen=True, kw_only=True)
class EncodingSettings(Settings):
    """How question JSON becomes a vocabulary and question HDF5.

    Attributes
    ----------
    vocab
        The file of an existing vocabulary to encode with; None: one is built from train alone. The
        program takes a checkpoint's, too.
    extend_vocab
        Add train's new tokens to ``vocab``, after its own.
    allow_unknown
        Encode unknown question words as ``<UNK>`` instead of refusing them.
    min_count
        Question words rarer than this in train stay out of a new or extended vocabulary.
    incomplete
        ``refuse`` a question that lacks an answer, program or family that others of its split have;
        or ``keep`` what there is: questions without an answer are left out, those without a program
        have no type.
    """

    vocab: PathText | None = None
    extend_vocab: bool = False
    allow_unknown: bool = False
    min_count: Positive = 1
    incomplete: Incomplete = "refuse"


@dataclass(frozen=True, kw_only=True)
class PreprocessSettings(EncodingSettings, DataProgramSettings):
    """The set whose questions are encoded, and how.

    Attributes
    ----------
    targets
        Whether what programs name in the pictures is written too, for ``trainer.program_loss``.
    """

    targets: bool = False


@dataclass(frozen=True, kw_only=True)
class ImportQuestionsSettings(DataProgramSettings):
    """A table of questions about pictures, of a user's own.

    Attributes
    ----------
    source
        The table's file.
    pictures
        The folder of the pictures; None: the table's.
    picture, question, answer, type, split
        The names of the columns, or keys; None: there is none.
    splits
        What the column ``split`` may have, and the split that it means; None: the names of the
        set's two, and ``test``.
    into
        The split of all questions of a table without such a column; None: the set's ``train_split``
        and ``val_split``.
    held_out
        The part of the pictures whose questions go to ``val_split`` then.
    """

    source: Annotated[PathText, FILE]
    pictures: Annotated[PathText | None, FOLDER] = None
    picture: Name = "picture"
    question: Name = "question"
    answer: Name | None = "answer"
    type: Name | None = None
    split: Name | None = None
    splits: dict[str, SplitName] | None = None
    into: SplitName | None = None
    held_out: Probability = 0.1
