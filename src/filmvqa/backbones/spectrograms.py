"""Spectrograms of recordings, which take the place of an image network's features.

A spectrogram (1, F, T) has the power by frequency, from low to high, and by time. Levels are in
decibels of full scale; ``MEAN_LEVEL`` is subtracted, and the result divided by ``LEVEL_SCALE``.
"""

from __future__ import annotations

import json
from functools import lru_cache
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray
from torch import nn

from filmvqa.backbones.backbone import Backbone, BackboneOptions, register_backbone
from filmvqa.backbones.spectrogram_settings import SPECTROGRAM, SpectrogramSettings
from filmvqa.features.feature_file import FRONT_END
from filmvqa.features.images import FileKind
from filmvqa.features.wav import in_full_scale, read_wav
from filmvqa.system.errors import UserError, one_line

#: In decibels of full scale.
MEAN_LEVEL, LEVEL_SCALE = -60.0, 20.0


def power(samples: NDArray[Any], settings: SpectrogramSettings) -> NDArray[np.float32]:
    """Power (K, T) of a recording by the window's bins, from 0 Hz upwards, and by frame.

    Full scale is 1. A sine has its mean square in its bin. The powers of all bins sum to 1.5 times
    the mean square under the window.
    """
    from scipy.signal import stft  # a slow import, which images do not need

    # float32 halves the time; levels differ from float64's by less than 1e-4 dB.
    scaled = in_full_scale(samples)
    _, _, spectrum = stft(
        scaled, settings.sample_rate, "hann", settings.window, settings.window - settings.hop
    )
    return np.asarray(2 * (spectrum.real**2 + spectrum.imag**2), np.float32)


def _band_corners(settings: SpectrogramSettings, bands: int) -> NDArray[np.float64]:
    """The frequencies (F + 2,) in Hz between which the mel bands rise and fall."""
    low, high = 2595 * np.log10(1 + np.array([settings.lowest, settings.highest]) / 700)
    return np.asarray(700 * (10 ** (np.linspace(low, high, bands + 2) / 2595) - 1))


def _first_bin(settings: SpectrogramSettings) -> int:
    """The window's first bin in a spectrogram without mel bands."""
    return round(settings.lowest * settings.window / settings.sample_rate)


@lru_cache(8)
def mel_bands(settings: SpectrogramSettings, bands: int) -> NDArray[np.float64]:
    """Weights (F, K) of the window's bins in triangular bands on O'Shaughnessy's mel scale."""
    corners = _band_corners(settings, bands)
    bins = np.fft.rfftfreq(settings.window, 1 / settings.sample_rate)
    rising = (bins - corners[:-2, None]) / (corners[1:-1] - corners[:-2])[:, None]
    falling = (corners[2:, None] - bins) / (corners[2:] - corners[1:-1])[:, None]
    weights = np.clip(np.minimum(rising, falling), 0, None)
    if not weights.any(1).all():
        raise UserError(
            f"{settings.as_override('window')}: has no bin in some of {bands} bands; "
            "raise it, or lower data.image_size[0]"
        )
    return np.asarray(weights)


@lru_cache(8)
def _used_bins(settings: SpectrogramSettings, bands: int) -> tuple[slice, NDArray[np.float32]]:
    """The window's bins that lie in any mel band, and their weights (F, used bins)."""
    weights = mel_bands(settings, bands)
    bins = np.flatnonzero(weights.any(0))
    used = slice(int(bins[0]), int(bins[-1]) + 1)
    return used, weights[:, used].astype(np.float32)


def band_centres(settings: SpectrogramSettings, bins: int) -> NDArray[np.float64]:
    """The centre frequencies (F,) of a spectrogram's rows in Hz."""
    if settings.mel:
        return _band_corners(settings, bins)[1:-1]
    first = _first_bin(settings)
    return np.arange(first, first + bins) * settings.sample_rate / settings.window


def spectrogram(
    samples: NDArray[Any], settings: SpectrogramSettings, size: tuple[int, int]
) -> NDArray[np.float32]:
    """The spectrogram (1, F, T) of a recording, where ``size`` = (F, T).

    Raises
    ------
    UserError
        If the recording does not have T frames, or the window has fewer than F bins.
    """
    bins, frames = size
    if len(samples) // settings.hop != frames:
        raise UserError(
            f"has {len(samples) // settings.hop} frames of {settings.hop} samples, but "
            f"data.image_size=[{bins},{frames}] has {frames}; change one of them"
        )
    powers = power(samples, settings)[:, :frames]
    if settings.mel:
        used, weights = _used_bins(settings, bins)
        rows = weights @ powers[used]
    else:
        rows = powers[_first_bin(settings) :][:bins]
        if len(rows) < bins:
            raise UserError(
                f"{settings.as_override('window')}: has no {bins} bins above "
                f"{settings.lowest:g} Hz; lower data.image_size[0]"
            )
    levels = 10 * np.log10(np.maximum(rows, 10 ** (settings.floor / 10)))
    return np.asarray((levels - MEAN_LEVEL) / LEVEL_SCALE, np.float32)[None]


def load_spectrogram(
    path: Path, size: tuple[int, int], settings: SpectrogramSettings
) -> NDArray[np.float32]:
    """The ``spectrogram`` of a WAV file; a ``UserError`` names the file."""
    samples, sample_rate = read_wav(path)
    if sample_rate != settings.sample_rate:
        raise UserError(
            f"{path}: has {sample_rate} samples a second, not {settings.sample_rate}; resample it, "
            "or set data.spectrogram.sample_rate"
        )
    try:
        return spectrogram(samples, settings, size)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None


def _wav_size(path: Path) -> tuple[int, int]:
    """The number of samples and the sample rate of a recording."""
    samples, rate = read_wav(path)
    return len(samples), rate


RECORDINGS = FileKind("recordings", {".wav"}, _wav_size, "{} samples at {} Hz")


def front_end(settings: SpectrogramSettings) -> str:
    """The settings in JSON, as feature files record them and ``BackboneOptions`` accept them."""
    return json.dumps(msgspec.to_builtins(settings), sort_keys=True)


class Spectrogram(Backbone):
    """A backbone that loads recordings as spectrograms and passes these through. Its mean and
    standard deviation are levels in decibels."""

    file_kind = RECORDINGS
    input_channels = 1

    def __init__(self, settings: SpectrogramSettings) -> None:
        super().__init__(SPECTROGRAM, nn.Identity(), (MEAN_LEVEL,), (LEVEL_SCALE,))
        self.settings = settings

    def load(self, path: Path, size: tuple[int, int]) -> NDArray[Any]:
        return load_spectrogram(path, size, self.settings)

    def spec(self) -> dict[str, Any]:
        return {**super().spec(), FRONT_END: front_end(self.settings)}


@register_backbone(SPECTROGRAM)
def build_spectrogram(name: str, options: BackboneOptions) -> Backbone:
    """A ``Spectrogram`` with the settings in ``options``; ``UserError`` if they are invalid."""
    try:
        return Spectrogram(msgspec.json.decode(options.front_end or "", type=SpectrogramSettings))
    except msgspec.MsgspecError as error:
        raise UserError(
            f"its record of the spectrograms' settings is broken ({one_line(error)}); extract the "
            "features again"
        ) from None
