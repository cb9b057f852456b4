"""The settings of the programs that evaluate checkpoints and score answers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from filmvqa.checkpoints.places import CHECKPOINT
from filmvqa.settings.inputs import FILE, FOLDER
from filmvqa.settings.typed import (
    Accelerate,
    Device,
    MissingImages,
    PathText,
    Placement,
    Positive,
    Precision,
    ProgramSettings,
    SplitName,
)


@dataclass(frozen=True, kw_only=True)
class AskedSettings(ProgramSettings):
    """A checkpoint, and the data set whose questions it answers.

    Attributes
    ----------
    checkpoint
        A file, a run's folder (for its ``best.pt``), or the name of a network of the package.
    h5, features
        Folders of question files and feature files; None for those of the training data. If only
        ``h5`` is given, it is the folder of both.
    batch_size
        Number of questions in a batch.
    device
        As in ``choose_device``.
    accelerate
        ``auto`` replaces modules of the network by faster ones that compute the same; false uses
        only the code of ``models``.
    """

    checkpoint: Annotated[PathText, CHECKPOINT]
    h5: Annotated[PathText | None, FOLDER] = None
    features: Annotated[PathText | None, FOLDER] = None
    batch_size: Positive = 256
    device: Device = "auto"
    accelerate: Accelerate = "auto"


@dataclass(frozen=True, kw_only=True)
class EvaluateSettings(AskedSettings):
    """An evaluation of a checkpoint on a split.

    Attributes
    ----------
    split
        The split whose questions are answered.
    output
        The folder of the results; None for ``evaluation`` in the checkpoint's folder, or in
        ``outputs/<name>`` for a network of the package.
    precision
        As in ``choose_precision``.
    store
        Where features are stored, as in ``open_feature_store``.
    missing_images
        ``refuse`` questions about images without features, or ``leave_out`` them.
    by_family, by_program_length, by_objects
        Whether to print these tables; the report always has them.
    """

    split: SplitName = "val"
    output: PathText | None = None
    precision: Precision = "auto"
    store: Placement = "auto"
    missing_images: MissingImages = "refuse"
    by_family: bool = False
    by_program_length: bool = False
    by_objects: bool = False


@dataclass(frozen=True, kw_only=True)
class ScoreSettings(ProgramSettings):
    """A file of answers, and the question JSON with which it is compared.

    Attributes
    ----------
    answers
        One answer per line, in the order of the questions, as CLEVR's authors, film and clevr-iep
        write them; or a ``<split>_predictions.jsonl`` of ``evaluate_checkpoint``.
    questions
        Question JSON with answers, as in ``read_question_table``.
    world
        The world of the questions, as in ``read_world``.
    output
        The file of the report as JSON; None to write none.
    by_family, by_program_length
        Whether to print these tables; the report always has them.
    """

    answers: Annotated[PathText, FILE]
    questions: Annotated[PathText, FILE]
    world: PathText = "clevr"
    output: PathText | None = None
    by_family: bool = False
    by_program_length: bool = False
