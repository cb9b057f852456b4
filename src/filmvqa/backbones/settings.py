"""The settings of feature extraction and of the pretraining of the shipped backbone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from filmvqa.settings.inputs import FILE, Input
from filmvqa.settings.typed import (
    AboveZero,
    Device,
    PathText,
    Positive,
    Precision,
    ProgramSettings,
    Seed,
    Settings,
    Workers,
)

#: Stands for random weights, which are the same in every run, for a dry run.
RANDOM = "random"


def _check_weights(path: str, key: str) -> None:
    if path != RANDOM:
        FILE.check(path, key)


#: Annotation of a key that is ``RANDOM`` or a weights file.
WEIGHTS = Input(_check_weights)

_Width = Annotated[int, Meta(ge=16, le=1024, multiple_of=8)]


@dataclass(frozen=True, kw_only=True)
class ExtractionSettings(Settings):
    """How images become features.

    Attributes
    ----------
    max_images
        Maximal number of images of each split, from the first; None selects all.
    batch_size
        Number of images in a batch.
    threads
        Number of threads that decode images.
    precision
        Precision of the network; ``auto`` selects that of an existing feature file.
    """

    max_images: Positive | None = None
    batch_size: Positive = 64
    threads: Workers = 2
    precision: Precision = "auto"


@dataclass(frozen=True, kw_only=True)
class PretrainSettings(ProgramSettings):
    """The pretraining of ``clevr_cnn``; the defaults are those of the shipped weights.

    Attributes
    ----------
    output
        The file of the weights, float16 safetensors.
    init
        The file of the initial weights; None selects random ones.
    images
        Number of training images of all ``sizes`` together.
    sizes
        Widths of the square images, in pixels.
    epochs, batch_size, lr, seed
        Number of epochs, batch size, largest learning rate and random seed.
    workers
        Number of processes that render images; the images do not depend on it.
    device
        Device of the network and of all images.
    """

    output: PathText
    init: Annotated[PathText | None, FILE] = None
    images: Positive = 60_000
    sizes: Annotated[tuple[_Width, ...], Meta(min_length=1)] = (96, 112, 144)
    epochs: Positive = 36
    batch_size: Positive = 256
    lr: AboveZero = 5e-3
    seed: Seed = 0
    workers: Workers = 2
    device: Device = "auto"
