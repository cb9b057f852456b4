"""The settings of spectrograms, apart from what computes them, which imports torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar

from msgspec import Meta

from filmvqa.settings.typed import AboveZero, Positive, Settings
from filmvqa.system.errors import UserError

SPECTROGRAM = "spectrogram"


@dataclass(frozen=True)
class SpectrogramSettings(Settings):
    """How a recording becomes a spectrogram, whose numbers of bins and frames are the image size.

    Attributes
    ----------
    sample_rate
        That of the recordings, in Hz.
    window
        Samples of the Hann window.
    hop
        Samples from one window's centre to the next; the first is that of the first sample.
    lowest, highest
        Frequencies in Hz: without ``mel``, the window's own bins from ``lowest`` on are taken, as
        many as the image is high; with it, triangular bands between the two, of equal width on the
        mel scale.
    mel
        Whether there are such bands.
    floor
        Levels below are raised to it, in dB of full scale.
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
                f"{self._given('highest')}: must be above {self._given('lowest')} and at most half "
                f"of {self._given('sample_rate')}"
            )
        if self.hop > self.window:
            raise UserError(
                f"{self._given('hop')}: leaves out samples between windows of "
                f"{self._given('window')}; lower it"
            )

    def _given(self, name: str) -> str:
        return f"{self.key_of(name)}={getattr(self, name)}"
