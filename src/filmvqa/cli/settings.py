"""The whole configuration of each script, typed: a key is a field here, and a line in configs/."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any

from msgspec import Meta

from filmvqa.benchmark.settings import BenchmarkSettings
from filmvqa.questions.settings import DataSettings
from filmvqa.settings.typed import (
    AboveZero,
    Cells,
    Device,
    Fraction,
    Incomplete,
    MissingImages,
    Name,
    Natural,
    NotNegative,
    PathText,
    Placement,
    Positive,
    Precision,
    Seed,
    Settings,
    SplitName,
    Workers,
)
from filmvqa.studies.inspection.settings import FilmSettings
from filmvqa.studies.search.settings import SearchSettings
from filmvqa.system.errors import UserError
from filmvqa.training.settings import (
    LoggerSettings,
    OptimSettings,
    TrainerSettings,
    TransferSettings,
)

#: A name that Hydra has made a folder of already: ``run=1e3`` is a folder, too.
Label = Annotated[str | int | float | bool, Meta(description="a name")]
#: Options of a model, which its constructor checks, with the model's ``name``.
ModelOptions = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class ScriptConfig(Settings):
    """What all scripts share.

    Attributes
    ----------
    imports
        Modules of the user's own, installed or in the current folder, that are imported first:
        what they register, such as a model, can be chosen.
    debug
        Whether the traceback of a user error is printed too.
    """

    imports: list[Name] = field(default_factory=list)
    debug: bool = False


@dataclass(frozen=True, kw_only=True)
class AskConfig(ScriptConfig):
    checkpoint: PathText
    image: PathText | None = None
    question: Annotated[str, Meta(min_length=1)] | None = None
    top: Positive = 5
    allow_unknown: bool = False
    weights: PathText | None = None
    device: Device = "auto"
    precision: Precision = "auto"


@dataclass(frozen=True, kw_only=True)
class BenchmarkConfig(ScriptConfig, BenchmarkSettings):
    pass


@dataclass(frozen=True, kw_only=True)
class CorrectConfig(ScriptConfig):
    checkpoint: PathText
    dir: PathText
    split: SplitName = "test"
    hints: Positive = 5
    seed: Seed = 0
    h5: PathText | None = None
    features: PathText | None = None
    output: PathText | None = None
    batch_size: Positive = 256
    device: Device = "auto"
    precision: Precision = "auto"


@dataclass(frozen=True, kw_only=True)
class DownloadClevrConfig(ScriptConfig):
    data: DataSettings


@dataclass(frozen=True, kw_only=True)
class DrawModelConfig(ScriptConfig):
    model: ModelOptions
    output: PathText
    feature_shape: tuple[Positive, Positive, Positive]


@dataclass(frozen=True, kw_only=True)
class DrawSheetConfig(ScriptConfig):
    data: DataSettings
    output: PathText
    split: SplitName = "val"
    rows: Cells = 2
    columns: Cells = 3


@dataclass(frozen=True, kw_only=True)
class AskedConfig(ScriptConfig):
    """What scripts share that ask a checkpoint a split's questions."""

    checkpoint: PathText
    split: SplitName = "val"
    h5: PathText | None = None
    features: PathText | None = None
    output: PathText | None = None
    batch_size: Positive = 256
    device: Device = "auto"


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(AskedConfig):
    by_family: bool = False
    by_program_length: bool = False
    by_objects: bool = False
    store: Placement = "auto"
    precision: Precision = "auto"
    missing_images: MissingImages = "refuse"
    film: FilmSettings = field(default_factory=FilmSettings)


@dataclass(frozen=True, kw_only=True)
class ExportConfig(ScriptConfig):
    checkpoint: PathText
    output: PathText


@dataclass(frozen=True, kw_only=True)
class ExtractFeaturesConfig(ScriptConfig):
    data: DataSettings
    weights: PathText | None = None
    std: tuple[AboveZero, AboveZero, AboveZero] | None = None
    max_images: Positive | None = None
    splits: Annotated[list[SplitName], Meta(min_length=1)] | None = None
    batch_size: Positive = 64
    threads: Workers = 2
    device: Device = "auto"
    precision: Precision = "auto"


@dataclass(frozen=True, kw_only=True)
class GenerateConfig(ScriptConfig):
    """What the scripts share that generate sets."""

    data: DataSettings
    templates: PathText | None = None
    workers: Workers | None = None
    parts: Positive | None = None
    part: Natural | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.part is not None and self.part >= (self.parts or 0):
            wanted = "the number of all parts" if self.parts is None else f"above {self.part}"
            raise UserError(
                f"part={self.part}: parts are numbered from 0 to parts - 1; give parts=<{wanted}>"
            )


@dataclass(frozen=True, kw_only=True)
class GenerateClevrConfig(GenerateConfig):
    pass


@dataclass(frozen=True, kw_only=True)
class GenerateSoundConfig(GenerateConfig):
    pass


@dataclass(frozen=True, kw_only=True)
class GenerateQuestionsConfig(ScriptConfig):
    scenes: PathText
    output: PathText
    world: PathText = "clevr"
    templates: PathText | None = None
    families: list[str | int] | None = None
    questions_per_image: Positive = 10
    seed: Seed = 0
    workers: Workers | None = None


@dataclass(frozen=True, kw_only=True)
class ImportFilmConfig(ScriptConfig):
    data: DataSettings
    source: PathText
    output: PathText
    padded_length: Positive = 46


@dataclass(frozen=True, kw_only=True)
class MakeHintsConfig(ScriptConfig):
    checkpoint: PathText
    output: PathText
    splits: Annotated[list[SplitName], Meta(min_length=1)] = field(
        default_factory=lambda: ["train", "val"]
    )
    hints: Positive = 5
    seed: Seed = 0
    h5: PathText | None = None
    features: PathText | None = None
    batch_size: Positive = 256
    device: Device = "auto"
    precision: Precision = "auto"


@dataclass(frozen=True, kw_only=True)
class PageConfig(ScriptConfig):
    checkpoint: PathText
    beside: PathText | None = None
    h5: PathText | None = None
    weights: PathText | None = None
    host: Name = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 8080
    show: bool = True
    device: Device = "auto"


@dataclass(frozen=True, kw_only=True)
class InspectFilmConfig(AskedConfig):
    max_questions: Positive | None = 10_000
    seed: Seed = 0


@dataclass(frozen=True, kw_only=True)
class LaboratoryConfig(ScriptConfig):
    claims: Annotated[list[Name], Meta(min_length=1)] | None = None
    runs: PathText
    output: PathText
    split: SplitName = "test"
    train: bool = True
    jobs: Workers | None = None
    margin: NotNegative = 1.0


@dataclass(frozen=True, kw_only=True)
class PreprocessQuestionsConfig(ScriptConfig):
    data: DataSettings
    vocab: PathText | None = None
    extend_vocab: bool = False
    allow_unknown: bool = False
    min_count: Positive = 1
    incomplete: Incomplete = "refuse"


@dataclass(frozen=True, kw_only=True)
class PretrainBackboneConfig(ScriptConfig):
    output: PathText
    images: Positive = 60_000
    sizes: Annotated[list[Annotated[int, Meta(ge=16, le=1024, multiple_of=8)]], Meta(min_length=1)]
    epochs: Positive = 36
    batch_size: Positive = 256
    lr: AboveZero = 5e-3
    seed: Seed = 0
    workers: Workers = 2
    device: Device = "auto"


@dataclass(frozen=True, kw_only=True)
class ScoreAnswersConfig(ScriptConfig):
    answers: PathText
    questions: PathText
    world: PathText = "clevr"
    output: PathText | None = None
    by_family: bool = False
    by_program_length: bool = False


@dataclass(frozen=True, kw_only=True)
class SweepReportConfig(ScriptConfig):
    dir: PathText
    key: Name | None = None
    series: Name | None = None
    reach: list[Fraction] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class TrainConfig(ScriptConfig):
    data: DataSettings
    model: ModelOptions
    optim: OptimSettings
    trainer: TrainerSettings
    logger: LoggerSettings = field(default_factory=LoggerSettings)
    train: TransferSettings = field(default_factory=TransferSettings)
    name: Label = "train"
    ablation: Label | None = None
    run: Label
    seed: Seed = 0
    device: Device = "auto"
    store: Placement = "auto"
    resume: bool = True


@dataclass(frozen=True, kw_only=True)
class MeasureLoggingConfig(TrainConfig):
    pairs: Positive = 8


@dataclass(frozen=True, kw_only=True)
class SimulateScaleConfig(ScriptConfig):
    measurement: PathText = "docs/scale.json"
    output: PathText | None = None


@dataclass(frozen=True, kw_only=True)
class SearchConfig(TrainConfig):
    search: SearchSettings
