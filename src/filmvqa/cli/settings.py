"""Settings of the programs that join rooms which must not import each other: asking, extracting,
generating."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from filmvqa.backbones.settings import WEIGHTS, ExtractionSettings
from filmvqa.checkpoints.places import CHECKPOINT
from filmvqa.questions.settings import DataProgramSettings
from filmvqa.settings.inputs import FILE
from filmvqa.settings.typed import (
    AboveZero,
    Accelerate,
    Device,
    Natural,
    PathText,
    Positive,
    Precision,
    ProgramSettings,
    SplitName,
    Workers,
)
from filmvqa.system.errors import UserError


@dataclass(frozen=True, kw_only=True)
class AskSettings(ProgramSettings):
    """A network that answers questions about pictures.

    Attributes
    ----------
    checkpoint
        A checkpoint, a run's folder (its ``best.pt``), or the name of a network of the package.
    image
        The picture. At the prompt, ``/image <path>`` chooses another.
    question
        One question to answer. Without it there is a prompt; if standard input is no terminal, its
        lines are answered.
    top
        The number of answers to show, with their probabilities.
    allow_unknown
        Read unknown words as ``<UNK>`` instead of refusing them.
    weights
        The file of the backbone's weights. None: the shipped ones, or torchvision's download.
    device
        ``auto`` is the GPU if there is one, else the CPU.
    precision
        ``auto`` is the faster of bfloat16 and float32 for this network and hardware.
    accelerate
        ``auto`` replaces modules of the network by faster ones with the same results, except to
        answer a single question. ``false`` replaces none.
    """

    checkpoint: Annotated[PathText, CHECKPOINT]
    image: Annotated[PathText | None, FILE] = None
    question: Annotated[str, Meta(min_length=1)] | None = None
    top: Positive = 5
    allow_unknown: bool = False
    weights: Annotated[PathText | None, FILE] = None
    device: Device = "auto"
    precision: Precision = "auto"
    accelerate: Accelerate = "auto"


@dataclass(frozen=True, kw_only=True)
class ExtractSettings(ExtractionSettings, DataProgramSettings):
    """The extraction of features, and masks, from the images of a set.

    Attributes
    ----------
    weights
        The file of the backbone's weights, or ``random`` for weights from a fixed seed (a dry run).
        None: the published or the shipped ones.
    std
        The standard deviations of red, green and blue in [0, 1] by which a ResNet's images are
        normalised. None: torchvision's.
    splits
        The splits to extract. None: every folder of images.
    device
        ``auto`` is the GPU if there is one, else the CPU.
    """

    weights: Annotated[PathText | None, WEIGHTS] = None
    std: tuple[AboveZero, AboveZero, AboveZero] | None = None
    splits: Annotated[list[SplitName], Meta(min_length=1)] | None = None
    device: Device = "auto"


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(DataProgramSettings):
    """The generation of a set.

    Attributes
    ----------
    templates
        A folder of template files in the official generator's format. None: as the set's settings
        say.
    workers
        The number of processes. None: one per core.
    parts
        The number of parts of the set, which separate commands generate. None: one command
        generates the whole set.
    part
        The part to generate, from 0. The last one to finish merges all parts. None, with ``parts``:
        only merge the parts.
    """

    templates: PathText | None = None
    workers: Workers | None = None
    parts: Positive | None = None
    part: Natural | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.part is not None and self.part >= (self.parts or 0):
            number = "the number of all parts" if self.parts is None else f"above {self.part}"
            raise UserError(
                f"part={self.part}: parts are numbered from 0 to parts - 1; give parts=<{number}>"
            )
