"""Settings of the programs that report on trained networks or draw figures."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from filmvqa.checkpoints.places import CHECKPOINT
from filmvqa.questions.settings import DataProgramSettings
from filmvqa.settings.inputs import FILE, FOLDER
from filmvqa.settings.typed import (
    Accelerate,
    Cells,
    Device,
    Fraction,
    ModelOptions,
    Name,
    NotNegative,
    PathText,
    Positive,
    ProgramSettings,
    Seed,
    SplitName,
    Workers,
)
from filmvqa.system.errors import UserError


@dataclass(frozen=True, kw_only=True)
class ClosureSettings(DataProgramSettings):
    """A network's CLOSURE tests: known concepts in new combinations (Bahdanau et al. 2019).

    Attributes
    ----------
    checkpoint
        A file, a run's folder (its ``best.pt`` is used), or the name of a network of the package.
    split
        The split whose scenes and images are used; missing ones are generated. None: the data's
        validation split.
    output
        The folder of the results. None: ``closure`` beside the checkpoint, or in
        ``outputs/<name>`` for a network of the package.
    templates
        The tests, as ``read_families`` takes them.
    questions_per_image
        Number of test questions for each image, and of CLEVR's own questions.
    allow_unknown
        Read unknown words as ``<UNK>`` instead of refusing them.
    weights
        The file of the backbone's weights. None: the shipped ones, or torchvision's download.
    workers
        Number of processes that make scenes and questions; None: one for each core.
    batch_size, device, accelerate
        As in ``AskedSettings``.
    """

    checkpoint: Annotated[PathText, CHECKPOINT]
    split: SplitName | None = None
    output: PathText | None = None
    templates: PathText = "closure"
    questions_per_image: Positive = 16
    seed: Seed = 0
    allow_unknown: bool = False
    weights: Annotated[PathText | None, FILE] = None
    workers: Workers | None = None
    batch_size: Positive = 256
    device: Device = "auto"
    accelerate: Accelerate = "auto"


@dataclass(frozen=True, kw_only=True)
class DrawModelSettings(ProgramSettings):
    """A diagram of a FiLM network.

    Attributes
    ----------
    model
        ``name``, which must be ``film``, and options.
    output
        The PNG file.
    feature_shape
        (C, H, W)
    """

    model: ModelOptions
    output: PathText
    feature_shape: tuple[Positive, Positive, Positive]

    def check_models(self) -> None:
        from filmvqa.models import check_model

        check_model(self.model)
        if self.model["name"] != "film":
            raise UserError(f"model.name={self.model['name']}: must be film to be drawn")


@dataclass(frozen=True, kw_only=True)
class DrawSheetSettings(DataProgramSettings):
    """A sheet of a data set's images or spectrograms, each with a question.

    Attributes
    ----------
    output
        The PNG file.
    split
        The split whose first images are drawn.
    rows, columns
        The grid of images.
    """

    output: PathText
    split: SplitName = "val"
    rows: Cells = 2
    columns: Cells = 3


@dataclass(frozen=True, kw_only=True)
class LaboratorySettings(ProgramSettings):
    """Claims about FiLM that are tested by training.

    Attributes
    ----------
    claims
        Names in ``configs/claim``, or paths of such files. None: all claims that are not in a
        subfolder.
    runs
        The folder that contains the sweeps' folders.
    results
        The folder of raw results: a CSV file for each claim. Its runs are reported with those of
        ``runs``, and are not trained again.
    output
        The folder of the reports.
    split
        The split that is reported on. Checkpoints are chosen on validation.
    train
        Whether missing runs are trained first.
    redraw
        Whether to report only the raw results.
    jobs
        Number of runs that are trained at a time, with one thread each; None: one for each core.
    margin
        Points of accuracy that count as no difference.
    """

    claims: Annotated[list[Name], Meta(min_length=1)] | None = None
    runs: PathText
    results: PathText
    output: PathText
    split: SplitName = "test"
    train: bool = True
    redraw: bool = False
    jobs: Workers | None = None
    margin: NotNegative = 1.0


@dataclass(frozen=True, kw_only=True)
class SweepReportSettings(ProgramSettings):
    """The tables and the figure of a sweep.

    Attributes
    ----------
    dir
        The sweep's folder.
    key
        The key that the sweep varied; None: the key that differs in the runs' configs.
    series
        With ``key``: a second key, such as ``model``, each of whose values has its own curve.
    reach
        Validation accuracies, such as 0.7 and 0.8; the table says when each was reached.
    """

    dir: Annotated[PathText, FOLDER]
    key: Name | None = None
    series: Name | None = None
    reach: list[Fraction] = field(default_factory=list)
