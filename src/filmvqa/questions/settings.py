"""Settings of a data set and its files: the node ``data`` of a config."""

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
    """The image network.

    Attributes
    ----------
    stage
        For a ResNet, its last stage that runs; for networks of timm and torchvision, which of their
        feature maps is used, from 1. None: the paper's third stage, or the last map of that size.
    """

    node: ClassVar[str] = "data.backbone"

    name: Name = "resnet101"
    stage: Annotated[int, Meta(ge=1, le=1000)] | None = None


@dataclass(frozen=True)
class DownloadSettings(Settings):
    """An archive, and its MD5 in hexadecimal digits if its publisher states one."""

    node: ClassVar[str] = "data.download"

    url: Name
    md5: Annotated[str, Meta(pattern="^[0-9a-f]{32}$", description="32 digits 0-9a-f")] | None


@dataclass(frozen=True, kw_only=True)
class CurriculumStage(Settings):
    """A stage of training that draws only some of the questions.

    Attributes
    ----------
    questions
        How many questions are drawn.
    program_length
        Draw only questions whose program has at most this many functions; None: any length.
    families
        Draw only questions of these families; None: all families.
    """

    node: ClassVar[str] = "data.curriculum"

    questions: Positive
    program_length: Positive | None = None
    families: list[Natural] | None = None


@dataclass(frozen=True, kw_only=True)
class DataSettings(Settings):
    """Where a set's files are, which splits training uses, and how the set is made.

    Attributes
    ----------
    root, images, h5, features
        Folders, as in ``DatasetLayout.under``.
    missing_images
        Whether gaps in the image numbers, and questions about missing images, are refused.
    families
        The question families of training and validation, or a JSON file with their list; None: all.
    fraction
        The fraction of the training images to train on.
    curriculum
        The stages at the beginning of training; None: all questions from the beginning.
    image_size
        (H, W) to which images are resized.
    mask_size
        (H, W) to which masks are resized, if the set has masks; None: masks are not read.
    generated
        How the set is generated, by the key of its world's settings (``register_set_settings``):
        ``generator`` for images of CLEVR's world, ``sound`` for recordings of the world of sounds.
    download
        The archive of the set; None: the set is not downloaded.
    spectrogram
        How recordings are converted to spectrograms; None: the set has images.
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
            value = "null" if self.spectrogram is None else "{...}"
            raise UserError(
                f"data.backbone.name={self.backbone.name}: does not fit data.spectrogram={value}; "
                f"recordings need {SPECTROGRAM} and these settings, images neither"
            )

    @cached_property
    def chosen_families(self) -> list[int] | None:
        """``families`` as sorted numbers, read from the file if they are a path; None: all.

        The file has the format of film's ``family_split_file``.

        Raises
        ------
        UserError
            If the file cannot be read, or is not a list of numbers.
        """
        numbers = self.families
        if isinstance(numbers, str):
            content = read_bytes(numbers, "give data.families a file")
            remedy = "give a list of families' numbers such as [0, 5, 17]"
            numbers = decode_json(content, _Families, numbers, remedy)
        return None if numbers is None else sorted(set(numbers))

    @property
    def _kind(self) -> SetKind | None:
        """The kind of generated set; None if the set is downloaded or a user's own."""
        return next((SET_KINDS[key] for key in self.generated), None)

    @property
    def world(self) -> World:
        """The world of the set's questions."""
        return read_world("clevr" if self._kind is None else self._kind.world)

    def set_settings(self, key: str) -> Settings:
        """How the set is generated; raise ``UserError`` if it is made in another way."""
        if key not in self.generated:
            other = "import_questions" if self.download is None else "download_clevr"
            program = other if self._kind is None else self._kind.program
            raise UserError(
                f"data={self.name} has no data.{key}; run scripts/{program}.py data={self.name}"
            )
        return self.generated[key]

    def check_trained_on(self) -> None:
        """Raise ``UserError`` unless all files that training reads exist."""
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
    """A program that works on a data set.

    Attributes
    ----------
    data
        The data set, such as ``data=mini``.
    """

    data: DataSettings


@dataclass(frozen=True, kw_only=True)
class EncodingSettings(Settings):
    """How question JSON is encoded.

    Attributes
    ----------
    vocab
        The file of an existing vocabulary to encode with; None: build one from train alone. The
        program also accepts a checkpoint, and uses its vocabulary.
    extend_vocab
        Add train's new tokens to ``vocab``, after its own.
    allow_unknown
        Encode unknown question words as ``<UNK>`` instead of refusing them.
    min_count
        Leave question words that are rarer than this in train out of a new or extended vocabulary.
    incomplete
        ``refuse`` questions that lack an answer, program or family that others of their split have;
        or ``keep`` them: questions without an answer are left out, those without a program have no
        type.
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
        Also write which objects the programs refer to, for ``trainer.program_loss``.
    """

    targets: bool = False


@dataclass(frozen=True, kw_only=True)
class ImportQuestionsSettings(DataProgramSettings):
    """A user's table of questions about pictures.

    Attributes
    ----------
    source
        The table's file.
    pictures
        The folder of the pictures; None: the table's folder.
    picture
        The column, or key, with the picture's file.
    question
        The column with the question.
    answer
        The column with the true answer; None: the table has none.
    type
        The column with the kind of question, by which accuracy is reported; None: no kinds.
    split
        The column with the question's split; None: ``into`` and ``held_out`` decide.
    splits
        The values of the column ``split``, and the split that each means; None: the values are the
        set's two splits and ``test``.
    into
        The split of all questions if there is no column ``split``; None: the set's ``train_split``
        and ``val_split``.
    held_out
        The fraction of the pictures whose questions then go to ``val_split``.
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
