"""Settings of the programs whose work is the command line's own: of asking, and of those that call
rooms which do not know each other."""

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
    """A network that is asked about pictures.

    Attributes
    ----------
    checkpoint
        A file, a run's folder, of which it is ``best.pt``, or the name of a network of the package.
    image, question
        What is asked; without a question there is a prompt, or lines are read from standard input.
    top
        How many answers are shown.
    allow_unknown
        Read unknown words as ``<UNK>`` instead of refusing them.
    weights
        The file of the backbone's weights; None: those shipped, or torchvision's download.
    device, precision, accelerate
        As ``load`` takes them.
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
    """Features, and masks, that are extracted from the images of a set.

    Attributes
    ----------
    weights
        The file of the backbone's weights, or ``random``: drawn, the same each time, for a dry run;
        None: the published or the shipped ones.
    std
        Of red, green and blue in [0, 1], for ResNets; None: torchvision's.
    splits
        None: every folder of images.
    device
        As ``choose_device`` takes it.
    """

    weights: Annotated[PathText | None, WEIGHTS] = None
    std: tuple[AboveZero, AboveZero, AboveZero] | None = None
    splits: Annotated[list[SplitName], Meta(min_length=1)] | None = None
    device: Device = "auto"


@dataclass(frozen=True, kw_only=True)
class GenerateSettings(DataProgramSettings):
    """A set that is generated.

    Attributes
    ----------
    templates
        A folder of template files in the official generator's format; None: that of the set's
        settings.
    workers
        Number of processes; None: one a core.
    parts
        In how many parts the set is made, each by a process of its own; None: whole.
    part
        The number of this one, from 0; the last that ends merges them. None, with ``parts`` given:
        only merge what the parts made.
    """

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
