"""Reports and figures of what was trained: settings of programs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated

from msgspec import Meta

from filmvqa.questions.settings import DataProgramSettings
from filmvqa.settings.inputs import FOLDER
from filmvqa.settings.typed import (
    Cells,
    Fraction,
    ModelOptions,
    Name,
    NotNegative,
    PathText,
    Positive,
    ProgramSettings,
    SplitName,
    Workers,
)
from filmvqa.system.errors import UserError


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
    output
        The folder of the reports.
    split
        What is reported on; checkpoints are chosen on validation.
    train
        Whether runs that are missing are trained first.
    jobs
        How many are trained at a time, with a thread each; None: one for each core.
    margin
        Points of accuracy that count as no difference.
    """

    claims: Annotated[list[Name], Meta(min_length=1)] | None = None
    runs: PathText
    output: PathText
    split: SplitName = "test"
    train: bool = True
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
