"""The settings of the page."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from msgspec import Meta

from filmvqa.checkpoints.places import CHECKPOINT
from filmvqa.settings.inputs import FILE, FOLDER
from filmvqa.settings.typed import Device, Name, PathText, ProgramSettings


@dataclass(frozen=True, kw_only=True)
class PageSettings(ProgramSettings):
    """A web page on which to ask a trained network.

    Attributes
    ----------
    checkpoint
        A checkpoint, a run's folder, or the name of a network of the package.
    beside
        The checkpoint of a second network, which answers the same questions. None: no second one.
    h5
        The folder of the question files of a set whose pictures visitors can choose. None: that of
        the checkpoint's training set, if it exists.
    weights
        The file of the backbone's weights. None: the shipped ones, or torchvision's download.
    host
        The address that serves the page. ``0.0.0.0`` lets other machines connect.
    port
        The port that serves the page.
    show
        Whether to open a browser.
    device
        ``auto`` is the GPU if there is one, else the CPU.
    """

    checkpoint: Annotated[PathText, CHECKPOINT]
    beside: Annotated[PathText | None, CHECKPOINT] = None
    h5: Annotated[PathText | None, FOLDER] = None
    weights: Annotated[PathText | None, FILE] = None
    host: Name = "127.0.0.1"
    port: Annotated[int, Meta(ge=1, le=65535)] = 8080
    show: bool = True
    device: Device = "auto"
