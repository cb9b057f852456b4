"""What the page shows, and where: settings of a program."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from filmvqa.checkpoints.places import CHECKPOINT
from filmvqa.settings.inputs import FILE, FOLDER
from filmvqa.settings.typed import Device, Name, PathText, ProgramSettings


@dataclass(frozen=True, kw_only=True)
class PageSettings(ProgramSettings):
    """The page on which a trained network is asked.

    Attributes
    ----------
    checkpoint
        A file, a run's folder, or the name of a network of the package.
    beside
        A second network, which is asked the same; None: none.
    h5
        The folder of the question files of the set whose pictures can be chosen; None: that of the
        checkpoint's training set. If that is not here, there are no pictures to choose from.
    weights
        The file of the backbone's weights; None: those shipped, or torchvision's download.
    host, port
        The address of the page; ``0.0.0.0`` is for whoever can reach this machine.
    show
        Whether the browser is opened.
    device
        As ``choose_device`` takes it.
    """

    checkpoint: Annotated[PathText, CHECKPOINT]
    beside: Annotated[PathText | None, CHECKPOINT] = None
    h5: Annotated[PathText | None, FOLDER] = None
    weights: Annotated[PathText | None, FILE] = None
    host: Name = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 8080
    show: bool = True
    device: Device = "auto"
