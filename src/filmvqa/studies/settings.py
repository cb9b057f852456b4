"""Reports and figures of what was trained: settings of programs."""

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
    """A network that is asked what it knows in new combinations (Bahdanau et al. 2019).

    Attributes
    ----------
    checkpoint
        A file, a run's folder, of which it is ``best.pt``, or the name of a network of the package.
    split
        About whose scenes and images it is asked, which are generated where they are not there;
        None: the set's validation split.
    output
        The folder of the results; None: ``closure`` in that of the checkpoint, and for a network of
        the package in ``outputs/<name>``.
    templates
        The tests, as ``read_families`` takes them.
    questions_per_image
        Of the tests, and as many of CLEVR's own.
    allow_unknown
        Read unknown words as ``<UNK>`` instead of refusing them.
    weights
        The file of the backbone's weights; None: those shipped, or torchvision's download.
    workers
        Number of processes that make scenes and questions; None: one a core.
    batch_size, device, accelerate
        As ``AskedSettings`` has them.
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
    """A drawing of a FiLM network.

    Attributes
    ----------
    model
        ``name``, which must be ``film``, and options.
    output
        A PNG.
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
    """A sheet of images of a set, or of spectrograms with their sounds, with questions.

    Attributes
    ----------
    output
        A PNG.
    split
        Whose first images are drawn.
    rows, columns
        The grid of images.
    """

    output: PathText
    split: SplitName = "val"
    rows: Cells = 2
    columns: Cells = 3


@dataclass(frozen=True, kw_only=True)
class LaboratorySettings(ProgramSettings):
    """Claims about FiLM that are tried.

    Attributes
    ----------
    claims
        Names of ``configs/claim``, or paths of files like them; None: all that are in no folder of
        their own.
    runs
        The folder of the sweeps' folders.
    results
        The folder of raw results: a CSV file for each claim, whose runs are reported beside those
        of ``runs``, and are not run again.
    output
        The folder of the reports.
    split
        What is reported on; checkpoints are chosen on validation.
    train
        Whether runs that are missing are trained first.
    redraw
        Draw all from the raw results alone.
    jobs
        How many are trained at a time, with a thread each; None: one for each core.
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
        What the sweep varied; None: what differs in the runs' configs.
    series
        With ``key``: what tells curves apart, such as ``model``.
    reach
        Validation accuracies, such as 0.7 and 0.8, of which the table says when they were reached.
    """

    dir: Annotated[PathText, FOLDER]
    key: Name | None = None
    series: Name | None = None
    reach: list[Fraction] = field(default_factory=list)
