"""Settings of the programs that export and import checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from filmvqa.checkpoints.places import CHECKPOINT
from filmvqa.questions.settings import DataProgramSettings
from filmvqa.settings.inputs import FILE
from filmvqa.settings.typed import PathText, Positive, ProgramSettings


@dataclass(frozen=True, kw_only=True)
class ExportSettings(ProgramSettings):
    """A trained network to write as one small file, with a model card beside it.

    Attributes
    ----------
    checkpoint
        A checkpoint, or a run's folder for its ``best.pt``.
    output
        The ``.safetensors`` file. The model card has the same name, with ``.md``.
    """

    checkpoint: Annotated[PathText, CHECKPOINT]
    output: PathText


@dataclass(frozen=True, kw_only=True)
class ImportSettings(DataProgramSettings):
    """A checkpoint of the original code to convert to one of this project.

    Evaluation reads questions and features from ``data`` by default.

    Attributes
    ----------
    source
        The original checkpoint.
    output
        The checkpoint to write. Its vocabulary is written beside it as ``vocab.json``.
    padded_length
        The length to which training questions were padded, by default that of CLEVR's longest
        question. A bidirectional encoder reads the padding.
    """

    source: Annotated[PathText, FILE]
    output: PathText
    padded_length: Positive = 46
