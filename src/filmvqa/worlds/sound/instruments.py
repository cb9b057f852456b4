"""Synthesis of single sounds: additive, of vibrating bars, and of plucked strings.

Every sound has its fundamental as the frequency that its note says, and ends within its duration.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, lfilter, sosfilt

Array = NDArray[np.float64]

#: Semitones of notes above C4, and the frequency of A4 in Hz, in equal temperament.
_SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
A4_HZ = 440.0
#: Exponents of a partial's number by which brightness changes its amplitude.
_TILT = {"dark": -0.9, "bright": 0.5}
#: Partials above this frequency are left out, in Hz.
_HIGHEST = 9000.0
#: How long a sound takes to fade at its end, in seconds.
RELEASE = 0.04


def note_frequency(note: str) -> float:
    """The frequency of a note such as ``A4``, in Hz."""
    semitones = _SEMITONES[note[:-1]] - _SEMITONES["A"] + 12 * (int(note[-1]) - 4)
    return float(A4_HZ * 2 ** (semitones / 12))


def synthesise(
    instrument: str,
    note: str,
    brightness: str,
    duration: float,
    sample_rate: int,
    rng: np.random.Generator,
) -> Array:
    """A sound (T,) of ``duration`` seconds, with a root mean square of 1.

    Parameters
    ----------
    brightness
        ``dark`` or ``bright``: partials fall by 5.4 dB an octave more, or rise by 3 dB, than the
        instrument's.
    rng
        Draws what differs between two sounds of one description.
    """
    count = round(duration * sample_rate)
    times = np.arange(count) / sample_rate
    sound = _INSTRUMENTS[instrument](
        note_frequency(note), _TILT[brightness], times, sample_rate, rng
    )
    release = min(count, round(RELEASE * sample_rate))
    sound[count - release :] *= np.cos(np.linspace(0, np.pi / 2, release)) ** 2
    scaled: Array = sound / np.sqrt(np.mean(sound**2))
    return scaled


def _attack(times: Array, seconds: float | Array) -> Array:
    """An envelope that rises from 0 to 1."""
    return np.sin(np.pi / 2 * np.clip(times / seconds, 0, 1)) ** 2


def _harmonics(
    frequency: float, tilt: float, times: Array, rng: np.random.Generator,
    amplitude: Callable[[Array], Array], *, cents: float = 0.0, rate: float = 5.5,
    lag: float = 0.0,
) -> Array:  # fmt: skip
    """Harmonics k = 1, 2, ... of ``amplitude`` (K,), with a vibrato of so many cents to each side.

    With ``lag``, in seconds, harmonic k begins to sound the later the higher it is, as a brass
    instrument's do.
    """
    numbers = np.arange(1, int(_HIGHEST / frequency) + 1, dtype=float)
    amplitudes = amplitude(numbers) * numbers**tilt * rng.uniform(0.85, 1.15, len(numbers))
    phase0 = rng.uniform(0, 2 * np.pi)
    # The vibrato begins after the attack; its mean frequency is that of the note.
    depth = np.log(2) * cents / 1200 * np.clip(times / 0.15, 0, 1)
    vibrato = depth * np.sin(2 * np.pi * rate * times + phase0)
    step = times[1] - times[0]
    phase = 2 * np.pi * frequency * np.cumsum(np.exp(vibrato)) * step
    phases = numbers[:, None] * phase + rng.uniform(0, 2 * np.pi, len(numbers))[:, None]
    partials = amplitudes[:, None] * np.sin(phases)  # (K, T)
    if lag:
        partials *= _attack(times[None], 0.03 + lag * (numbers[:, None] - 1))
    return np.asarray(partials.sum(0))


def _violin(
    frequency: float, tilt: float, times: Array, sample_rate: int, rng: np.random.Generator
) -> Array:
    """A bowed string: a sawtooth's harmonics, slow attack, vibrato."""
    wide = rng.uniform(10, 18)
    tone = _harmonics(
        frequency, tilt, times, rng, lambda k: k**-1.0, cents=wide, rate=rng.uniform(5, 6.5)
    )
    return tone * _attack(times, 0.07)


def _flute(
    frequency: float, tilt: float, times: Array, sample_rate: int, rng: np.random.Generator
) -> Array:
    """Few harmonics, and the breath: noise around the note."""
    tone = _harmonics(frequency, tilt, times, rng, lambda k: k**-2.6, cents=rng.uniform(3, 7))
    band = butter(2, [0.8 * frequency, 6 * frequency], "bandpass", fs=sample_rate, output="sos")
    breath = sosfilt(band, rng.standard_normal(len(times)))
    tremolo = 1 + 0.12 * np.sin(2 * np.pi * rng.uniform(4.5, 5.5) * times)
    breath *= rng.uniform(0.08, 0.12) * np.std(tone) / np.std(breath)
    return np.asarray((tone * tremolo + breath) * _attack(times, 0.05))


def _clarinet(
    frequency: float, tilt: float, times: Array, sample_rate: int, rng: np.random.Generator
) -> Array:
    """A closed pipe: odd harmonics."""
    even = rng.uniform(0.03, 0.07)
    tone = _harmonics(frequency, tilt, times, rng, lambda k: k**-0.9 * np.where(k % 2, 1, even))
    return tone * _attack(times, 0.03)


def _trumpet(
    frequency: float, tilt: float, times: Array, sample_rate: int, rng: np.random.Generator
) -> Array:
    """A formant around 1.2 kHz, and higher harmonics that come later."""
    centre = rng.uniform(1100, 1300)

    def amplitude(k: Array) -> Array:
        return np.asarray(0.5 / k + 1.2 * np.exp(-(((k * frequency - centre) / 700) ** 2)))

    return _harmonics(frequency, tilt, times, rng, amplitude, lag=0.006)


def _guitar(
    frequency: float, tilt: float, times: Array, sample_rate: int, rng: np.random.Generator
) -> Array:
    """A plucked string as a delay line in a loop (Karplus and Strong 1983), tuned to a part of a
    sample by an allpass filter (Jaffe and Smith 1983)."""
    damping = rng.uniform(0.35, 0.5)  # of the loop's lowpass 1 - b + b z^-1, which delays by b
    period = sample_rate / frequency - damping
    whole = int(period - 0.3)
    fraction = period - whole  # in [0.3, 1.3), where the allpass is stable
    allpass = (1 - fraction) / (1 + fraction)
    gain = 10 ** (-3 / (frequency * rng.uniform(0.9, 1.2)))  # 60 dB in about a second
    loop = np.convolve([1 - damping, damping], [allpass, 1.0])
    denominator = np.zeros(whole + 3)
    denominator[:2] = 1.0, allpass
    denominator[whole : whole + 3] -= gain * loop
    pluck = np.zeros(len(times))
    noise = rng.uniform(-1, 1, whole)
    pole = 0.85 if tilt < 0 else 0.1
    pluck[:whole] = lfilter([1 - pole], [1, -pole], noise - noise.mean())
    return np.asarray(lfilter([1.0, allpass], denominator, pluck))


def _bell(
    frequency: float, tilt: float, times: Array, sample_rate: int, rng: np.random.Generator
) -> Array:
    """A struck bar: the modes of a free bar (Fletcher and Rossing, section 2.16), each of which
    decays by itself, the higher the sooner."""
    ratios = np.array([1.0, 2.756, 5.404, 8.933, 13.34])
    ratios = ratios[ratios * frequency < _HIGHEST]
    amplitudes = np.array([1.0, 0.6, 0.35, 0.2, 0.1])[: len(ratios)] * ratios ** (tilt / 2)
    decays = rng.uniform(2.2, 3.0) * ratios**0.5  # 1 / s
    phases = rng.uniform(0, 2 * np.pi, len(ratios))
    angles = 2 * np.pi * frequency * ratios[:, None] * times + phases[:, None]
    modes = amplitudes[:, None] * np.exp(-decays[:, None] * times) * np.sin(angles)
    return np.asarray(modes.sum(0) * _attack(times, 0.004))


_INSTRUMENTS: dict[
    str, Callable[[float, float, Array, int, np.random.Generator], Array]
] = {
    "violin": _violin, "flute": _flute, "clarinet": _clarinet, "trumpet": _trumpet,
    "guitar": _guitar, "bell": _bell,
}  # fmt: skip
