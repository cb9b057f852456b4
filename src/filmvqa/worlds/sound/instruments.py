"""Synthesis of single sounds: additive, of vibrating bars, and of plucked strings.

The fundamental frequency of a sound is that of its note, and the sound ends within its duration.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import butter, lfilter, sosfilt

Array = NDArray[np.float64]

#: Semitones of notes above C4, and the frequency of A4 in Hz, in equal temperament.
_SEMITONES = {"C": 0, "D": 2, "E": 4, "F": 5, "G": 7, "A": 9, "B": 11}
A4_HZ = 440.0
#: Brightness multiplies the amplitude of partial k by k to this power.
_TILT = {"dark": -0.9, "bright": 0.5}
#: Partials above this frequency, in Hz, are omitted.
_HIGHEST = 9000.0
#: Duration of the fade at a sound's end, in seconds.
RELEASE = 0.04


@dataclass(frozen=True)
class _Tone:
    """What an instrument plays: frequency in Hz, tilt of the partials, times (T,) in seconds."""

    frequency: float
    tilt: float
    times: Array
    sample_rate: int
    rng: np.random.Generator


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
    """Synthesise a sound (T,) of ``duration`` seconds with a root mean square of 1.

    Parameters
    ----------
    brightness
        ``dark`` lowers the instrument's partials by 5.4 dB an octave; ``bright`` raises them by
        3 dB.
    rng
        Draws what distinguishes two sounds with the same attributes.
    """
    count = round(duration * sample_rate)
    times = np.arange(count) / sample_rate
    tone = _Tone(note_frequency(note), _TILT[brightness], times, sample_rate, rng)
    sound = _INSTRUMENTS[instrument](tone)
    release = min(count, round(RELEASE * sample_rate))
    sound[count - release :] *= np.cos(np.linspace(0, np.pi / 2, release)) ** 2
    scaled: Array = sound / np.sqrt(np.mean(sound**2))
    return scaled


def _attack(times: Array, seconds: float | Array) -> Array:
    """An envelope that rises from 0 to 1."""
    return np.sin(np.pi / 2 * np.clip(times / seconds, 0, 1)) ** 2


def _harmonics(
    tone: _Tone,
    amplitude: Callable[[Array], Array],
    cents: float = 0.0,
    rate: float = 5.5,
    lag: float = 0.0,
) -> Array:
    """Add harmonics k = 1, 2, ..., with the amplitudes (K,) that ``amplitude`` gives for k (K,).

    The vibrato has a depth of ``cents`` to each side and a ``rate`` in Hz. Harmonic k starts
    later by (k - 1) times ``lag`` seconds, as on brass instruments.
    """
    numbers = np.arange(1, int(_HIGHEST / tone.frequency) + 1, dtype=float)
    amplitudes = (
        amplitude(numbers) * numbers**tone.tilt * tone.rng.uniform(0.85, 1.15, len(numbers))
    )
    phase0 = tone.rng.uniform(0, 2 * np.pi)
    # The vibrato starts after the attack; its mean frequency is that of the note.
    depth = np.log(2) * cents / 1200 * np.clip(tone.times / 0.15, 0, 1)
    vibrato = depth * np.sin(2 * np.pi * rate * tone.times + phase0)
    step = tone.times[1] - tone.times[0]
    phase = 2 * np.pi * tone.frequency * np.cumsum(np.exp(vibrato)) * step
    phases = numbers[:, None] * phase + tone.rng.uniform(0, 2 * np.pi, len(numbers))[:, None]
    partials = amplitudes[:, None] * np.sin(phases)  # (K, T)
    if lag:
        partials *= _attack(tone.times[None], 0.03 + lag * (numbers[:, None] - 1))
    return np.asarray(partials.sum(0))


def _violin(tone: _Tone) -> Array:
    """A bowed string: a sawtooth's harmonics, slow attack, vibrato."""
    wide = tone.rng.uniform(10, 18)
    sound = _harmonics(tone, lambda k: k**-1.0, cents=wide, rate=tone.rng.uniform(5, 6.5))
    return sound * _attack(tone.times, 0.07)


def _flute(tone: _Tone) -> Array:
    """Few harmonics, and breath: band-limited noise around the note."""
    sound = _harmonics(tone, lambda k: k**-2.6, cents=tone.rng.uniform(3, 7))
    band = butter(
        2, [0.8 * tone.frequency, 6 * tone.frequency], "bandpass", fs=tone.sample_rate, output="sos"
    )
    breath = sosfilt(band, tone.rng.standard_normal(len(tone.times)))
    tremolo = 1 + 0.12 * np.sin(2 * np.pi * tone.rng.uniform(4.5, 5.5) * tone.times)
    breath *= tone.rng.uniform(0.08, 0.12) * np.std(sound) / np.std(breath)
    return np.asarray((sound * tremolo + breath) * _attack(tone.times, 0.05))


def _clarinet(tone: _Tone) -> Array:
    """A closed pipe: odd harmonics."""
    even = tone.rng.uniform(0.03, 0.07)
    sound = _harmonics(tone, lambda k: k**-0.9 * np.where(k % 2, 1, even))
    return sound * _attack(tone.times, 0.03)


def _trumpet(tone: _Tone) -> Array:
    """A formant around 1.2 kHz; higher harmonics start later."""
    centre = tone.rng.uniform(1100, 1300)

    def amplitude(k: Array) -> Array:
        return np.asarray(0.5 / k + 1.2 * np.exp(-(((k * tone.frequency - centre) / 700) ** 2)))

    return _harmonics(tone, amplitude, lag=0.006)


def _guitar(tone: _Tone) -> Array:
    """A plucked string: a delay line in a loop (Karplus and Strong, 1983), tuned to fractions of a
    sample by an allpass filter (Jaffe and Smith, 1983)."""
    damping = tone.rng.uniform(0.35, 0.5)  # of the loop's lowpass 1 - b + b z^-1, which delays by b
    period = tone.sample_rate / tone.frequency - damping
    whole = int(period - 0.3)
    fraction = period - whole  # in [0.3, 1.3), where the allpass is stable
    allpass = (1 - fraction) / (1 + fraction)
    gain = 10 ** (-3 / (tone.frequency * tone.rng.uniform(0.9, 1.2)))  # 60 dB in about a second
    loop = np.convolve([1 - damping, damping], [allpass, 1.0])
    denominator = np.zeros(whole + 3)
    denominator[:2] = 1.0, allpass
    denominator[whole : whole + 3] -= gain * loop
    pluck = np.zeros(len(tone.times))
    noise = tone.rng.uniform(-1, 1, whole)
    pole = 0.85 if tone.tilt < 0 else 0.1
    pluck[:whole] = lfilter([1 - pole], [1, -pole], noise - noise.mean())
    return np.asarray(lfilter([1.0, allpass], denominator, pluck))


def _bell(tone: _Tone) -> Array:
    """A struck bar: the modes of a free bar (Fletcher and Rossing, section 2.16); higher modes
    decay faster."""
    ratios = np.array([1.0, 2.756, 5.404, 8.933, 13.34])
    ratios = ratios[ratios * tone.frequency < _HIGHEST]
    amplitudes = np.array([1.0, 0.6, 0.35, 0.2, 0.1])[: len(ratios)] * ratios ** (tone.tilt / 2)
    decays = tone.rng.uniform(2.2, 3.0) * ratios**0.5  # 1 / s
    phases = tone.rng.uniform(0, 2 * np.pi, len(ratios))
    angles = 2 * np.pi * tone.frequency * ratios[:, None] * tone.times + phases[:, None]
    modes = amplitudes[:, None] * np.exp(-decays[:, None] * tone.times) * np.sin(angles)
    return np.asarray(modes.sum(0) * _attack(tone.times, 0.004))


_INSTRUMENTS: dict[str, Callable[[_Tone], Array]] = {
    "violin": _violin, "flute": _flute, "clarinet": _clarinet, "trumpet": _trumpet,
    "guitar": _guitar, "bell": _bell,
}  # fmt: skip
