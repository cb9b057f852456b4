"""What a checkpoint is asked, and how: the settings of the programs that evaluate."""

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
    """A checkpoint that is asked the questions of a data set.

    Attributes
    ----------
    checkpoint
        A file, a run's folder, of which it is ``best.pt``, or the name of a network of the package.
    h5, features
        Folders of question and feature HDF5; None: those of the training data, and ``features``
        where ``h5`` is.
    batch_size
        Number of questions in a batch.
    device
        As ``choose_device`` takes it.
    accelerate
        Whether modules of the network are replaced by faster forms of the same (``auto``), or it
        computes by the code of ``models`` alone (false).
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
        Whose questions are asked.
    output
        The folder of the results; None: ``evaluation`` in the folder of the checkpoint, and for a
        network of the package in ``outputs/<name>``.
    precision
        As ``autocast`` takes it.
    store
        Where features live, as ``open_feature_store`` takes it.
    missing_images
        ``refuse`` questions about images without features, or ``leave_out`` them.
    by_family, by_program_length, by_objects
        Print these tables too; the report always has them.
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
    """A file of answers that is compared with those of a question JSON.

    Attributes
    ----------
    answers
        One answer per line, in the order of the questions, as CLEVR's authors, film and clevr-iep
        write them; or a ``<split>_predictions.jsonl`` of ``evaluate_checkpoint``.
    questions
        Question JSON with answers, such as ``read_question_table`` reads.
    world
        What the questions are about, as ``read_world`` takes it.
    output
        Where to write the report as JSON; None: nowhere.
    by_family, by_program_length
        Print these tables too; the report always has them.
    """

    answers: Annotated[PathText, FILE]
    questions: Annotated[PathText, FILE]
    world: PathText = "clevr"
    output: PathText | None = None
    by_family: bool = False
    by_program_length: bool = False
