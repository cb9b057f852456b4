"""Checkpoints that are exported and imported: settings of programs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from filmvqa.checkpoints.places import CHECKPOINT
from filmvqa.questions.settings import DataProgramSettings
from filmvqa.settings.inputs import FILE
from filmvqa.settings.typed import PathText, Positive, ProgramSettings


@dataclass(frozen=True, kw_only=True)
class ExportSettings(ProgramSettings):
    """A trained network that is written as one small file, with a model card beside it.

    Attributes
    ----------
    checkpoint
        A file, or a run's folder, of which it is ``best.pt``.
    output
        A ``.safetensors`` file; the model card gets its name with ``.md``.
    """

    checkpoint: Annotated[PathText, CHECKPOINT]
    output: PathText


@dataclass(frozen=True, kw_only=True)
class ImportSettings(DataProgramSettings):
    """A checkpoint of the original code that becomes one of this project; ``data`` is where
    evaluation looks for questions and features by default.

    Attributes
    ----------
    source
        The original checkpoint.
    output
        The checkpoint that is written, with its vocabulary as ``vocab.json`` beside it.
    padded_length
        The length to which the questions that it was trained on were padded, by default that of
        CLEVR's longest: the backward direction of a bidirectional encoder reads the padding.
    """

    source: Annotated[PathText, FILE]
    output: PathText
    padded_length: Positive = 46
