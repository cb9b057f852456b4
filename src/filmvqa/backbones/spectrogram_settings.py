"""The settings of spectrograms, without an import of torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from filmvqa.settings.typed import AboveZero, Positive, Settings
from filmvqa.system.errors import UserError

SPECTROGRAM = "spectrogram"


@dataclass(frozen=True)
class SpectrogramSettings(Settings):
    """How a recording becomes a spectrogram; the image size is its number of rows and frames.

    Attributes
    ----------
    sample_rate
        Sample rate of the recordings in Hz.
    window
        Length of the Hann window in samples.
    hop
        Samples between the centres of consecutive windows; the first centre is the first sample.
    lowest, highest
        Frequencies in Hz. With ``mel``, the rows are triangular bands between the two, of equal
        width on the mel scale. Without it, they are the window's bins from ``lowest`` upwards.
    mel
        Whether rows are mel bands.
    floor
        Minimal level in dB of full scale; lower levels are raised to it.
    """

    node: ClassVar[str] = "data.spectrogram"

    sample_rate: Annotated[int, Meta(ge=8000, le=192_000)]
    window: Annotated[int, Meta(ge=16, le=65536)] = 2048
    hop: Positive = 551
    lowest: AboveZero = 200.0
    highest: AboveZero = 6000.0
    mel: bool = True
    floor: Annotated[float, Meta(ge=-200, lt=0)] = -100.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.lowest < self.highest <= self.sample_rate / 2:
            raise UserError(
                f"{self.as_override('highest')}: must be above {self.as_override('lowest')} and at "
                f"most half of {self.as_override('sample_rate')}"
            )
        if self.hop > self.window:
            raise UserError(
                f"{self.as_override('hop')}: skips samples between windows of "
                f"{self.as_override('window')}; lower it"
            )
