"""Recordings and spectrograms agree with their scenes, by peaks, sums and thresholds of the stored
levels, independently of the synthesis."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.backbones.spectrogram_settings import SpectrogramSettings
from filmvqa.backbones.spectrograms import (
    LEVEL_SCALE,
    MEAN_LEVEL,
    mel_bands,
    spectrogram,
)
from filmvqa.worlds.sound.instruments import note_frequency, synthesise
from filmvqa.worlds.sound.recording import impulse_response
from filmvqa.worlds.sound.scenes import SOUND
from filmvqa.worlds.sound.settings import SoundRules
from tests.conftest import examples
from tests.worlds.sound.small_sets import recorded

RATE = 22_050
SCENES = range(12)


def levels(samples: np.ndarray, window: int, hop: int) -> np.ndarray:
    """Power (K, T) from a stored linear spectrogram."""
    settings = SpectrogramSettings(RATE, window, hop, lowest=1.0, highest=RATE / 2, mel=False)
    size = (window // 2 + 1, len(samples) // hop)
    stored = spectrogram(samples, settings, size)[0].astype(np.float16).astype(float)
    return 10 ** ((stored * LEVEL_SCALE + MEAN_LEVEL) / 10)


@pytest.mark.parametrize("index", SCENES)
def test_onsets_pitch_and_loudness_agree_with_the_scene(index: int) -> None:
    scene, samples = recorded(index)
    hop = 64
    fine = levels(samples, 256, hop).sum(0) / 1.5  # mean square by time
    times = np.arange(len(fine)) * hop / RATE
    coarse_hop = 256
    coarse = levels(samples, 4096, coarse_hop)
    bins = np.arange(len(coarse)) * RATE / 4096
    for sound in scene.objects:
        inside = (times >= sound.onset) & (times < sound.onset + sound.duration)
        loudness = 10 * math.log10(fine[inside].mean())
        assert abs(loudness - sound.level) < 1.0, sound
        # The onset is where the power first exceeds a ninth of its maximum.
        near = (times > sound.onset - 0.03) & (times < sound.onset + 0.15)
        rise = times[near][np.argmax(fine[near] > fine[inside].max() / 9)]
        assert -0.012 < rise - sound.onset < 0.045, sound
        # Only the fundamentals of notes lie between 240 and 515 Hz.
        frame = round((sound.onset + sound.duration / 2) * RATE / coarse_hop)
        column = np.log(np.where((bins > 240) & (bins < 515), coarse[:, frame], 1e-12))
        k = int(column.argmax())
        left, middle, right = column[k - 1 : k + 2]
        peak = (k + 0.5 * (left - right) / (left - 2 * middle + right)) * RATE / 4096
        assert abs(1200 * math.log2(peak / sound.frequency)) < 50, sound


@pytest.mark.parametrize("instrument", SOUND.attributes["instrument"])
@pytest.mark.parametrize("brightness", SOUND.attributes["brightness"])
def test_every_sound_is_in_tune(instrument: str, brightness: str) -> None:
    """To a fifth of a semitone, by the autocorrelation of half a second."""
    for note in SOUND.attributes["note"]:
        rng = np.random.default_rng(1)
        sound = synthesise(instrument, note, brightness, 0.5, RATE, rng)
        assert np.mean(sound**2) == pytest.approx(1)
        assert abs(sound[-1]) < 1e-6
        if instrument == "bell":  # its modes are not harmonic; the strongest has the note
            spectrum = np.abs(np.fft.rfft(sound * np.hanning(len(sound)), 8 * len(sound)))
            frequency = spectrum.argmax() * RATE / (8 * len(sound))
        else:
            spectrum = np.abs(np.fft.rfft(sound, 2 * len(sound))) ** 2
            correlation = np.fft.irfft(spectrum)[: len(sound)]
            low, high = int(RATE / 550), int(RATE / 235)
            # The peak at the first lag where the correlation is close to its maximum.
            large = correlation[low:high] > 0.9 * correlation[low:high].max()
            first = low + int(large.argmax())
            lag = first + int(correlation[first : first + 12].argmax())
            left, middle, right = correlation[lag - 1 : lag + 2]
            frequency = RATE / (lag + 0.5 * (left - right) / (left - 2 * middle + right))
        assert abs(1200 * math.log2(frequency / note_frequency(note))) < 20, (note, frequency)


def test_notes_are_those_of_equal_temperament() -> None:
    """By MIDI's numbers: C4 is 60, A4 is 69."""
    midi = dict(zip(SOUND.attributes["note"], (60, 62, 64, 65, 67, 69, 71), strict=True))
    for note, number in midi.items():
        assert note_frequency(note) == pytest.approx(440 * 2 ** ((number - 69) / 12))


@pytest.mark.parametrize("instrument", SOUND.attributes["instrument"])
def test_bright_sounds_have_a_higher_centroid(instrument: str) -> None:
    centroids = {}
    for brightness in SOUND.attributes["brightness"]:
        sound = synthesise(instrument, "E4", brightness, 0.4, RATE, np.random.default_rng(2))
        spectrum = np.abs(np.fft.rfft(sound)) ** 2
        bins = np.fft.rfftfreq(len(sound), 1 / RATE)
        centroids[brightness] = (spectrum * bins).sum() / spectrum.sum()
    assert centroids["bright"] > 1.03 * centroids["dark"]


def test_the_reverberation_has_its_level_and_decay() -> None:
    rules = SoundRules(reverberation=-12.0, reverberation_seconds=0.5)
    response = impulse_response(rules, RATE, np.random.default_rng(0))
    assert response[0] == 1
    assert 10 * math.log10((response[1:] ** 2).sum()) == pytest.approx(-12)
    # 60 dB in half a second are 24 dB from its first fifth to its third.
    first, later = response[1:2205], response[4410:6614]
    assert 10 * math.log10((first**2).mean() / (later**2).mean()) == pytest.approx(24, abs=1.5)


@given(
    frequency=st.floats(300, 5000), amplitude=st.floats(0.01, 0.9),
    window=st.sampled_from([512, 1024, 2048]),
)  # fmt: skip
@examples(15)
def test_a_sine_has_its_frequency_and_level(
    frequency: float, amplitude: float, window: int
) -> None:
    times = np.arange(4 * window) / RATE
    samples = np.round(32767 * amplitude * np.sin(2 * np.pi * frequency * times)).astype(np.int16)
    column = levels(samples, window, window // 2)[:, 4]
    assert abs(column.argmax() * RATE / window - frequency) <= RATE / window
    # All bins together have half of the squared amplitude times 1.5, the window's noise bandwidth.
    assert 10 * math.log10(column.sum() / 1.5) == pytest.approx(
        10 * math.log10(amplitude**2 / 2), abs=0.2
    )


def test_mel_bands_are_triangles_of_equal_width_in_mel() -> None:
    settings = SpectrogramSettings(RATE)
    weights = mel_bands(settings, 64)
    bins = np.arange(1025) * RATE / 2048
    mels = 1127.0 * np.log1p(bins / 700)  # the same scale, by the natural logarithm
    low, high = 1127.0 * np.log1p(200 / 700), 1127.0 * np.log1p(6000 / 700)
    for k, row in enumerate(weights):
        centre = low + (k + 1) * (high - low) / 65
        assert abs(mels[row.argmax()] - centre) < 18
        assert row.max() <= 1
        outside = abs(mels - centre) > (high - low) / 65 + 0.5
        assert not row[outside].any()
    # Neighbouring bands add up to 1 between the outer centres.
    inner = (mels > low + (high - low) / 65) & (mels < high - (high - low) / 65)
    assert weights.sum(0)[inner] == pytest.approx(1)
