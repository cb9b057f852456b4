"""The recording of a scene: its sounds mixed, with reverberation and noise."""

from __future__ import annotations

from functools import lru_cache

import msgspec
import numpy as np
from numpy.typing import NDArray
from scipy.signal import fftconvolve

from filmvqa.worlds.sound.instruments import Array, synthesise
from filmvqa.worlds.sound.scenes import BANK_ATTRIBUTES, SoundScene, start_sound
from filmvqa.worlds.sound.settings import SoundRules, SoundSettings

#: Number of distinct sounds in the cache, of up to 100 kB each.
_BANK = 2048


@lru_cache(_BANK)
def _distinct_sound(encoded: bytes, values: tuple[str, ...], variant: int) -> Array:
    """A distinct sound (T,), with a root mean square of 1.

    ``values`` are those of ``BANK_ATTRIBUTES``; the settings are JSON, so that they are hashable.
    """
    settings = msgspec.json.decode(encoded, type=SoundSettings)
    duration, rng = start_sound(settings, values, variant)
    instrument, note, brightness, _ = values
    return synthesise(instrument, note, brightness, duration, settings.sample_rate, rng)


def dry_mix(scene: SoundScene, settings: SoundSettings) -> Array:
    """The sounds of a scene (T,) without reverberation and noise; full scale is 1."""
    mix = np.zeros(round(scene.seconds * settings.sample_rate))
    encoded = msgspec.json.encode(settings)
    for sound in scene.objects:
        values = tuple(getattr(sound, name) for name in BANK_ATTRIBUTES)
        wave = _distinct_sound(encoded, values, sound.variant) * 10 ** (sound.level / 20)
        start = round(sound.onset * settings.sample_rate)
        mix[start : start + len(wave)] += wave[: len(mix) - start]
    return mix


def impulse_response(rules: SoundRules, sample_rate: int, rng: np.random.Generator) -> Array:
    """The impulse response of a room (T,): the direct sound, then exponentially decaying noise."""
    count = round(rules.reverberation_seconds * sample_rate)
    times = np.arange(count) / sample_rate
    tail = rng.standard_normal(count) * 10 ** (-3 * times / rules.reverberation_seconds)
    tail[0] = 0
    level = -np.inf if rules.reverberation is None else rules.reverberation
    tail *= 10 ** (level / 20) / np.sqrt((tail**2).sum())
    tail[0] = 1
    return np.asarray(tail)


def record(
    scene: SoundScene, settings: SoundSettings, rng: np.random.Generator
) -> NDArray[np.int16]:
    """The recording of a scene (T,) in 16 bits; samples beyond full scale are clipped."""
    mix = dry_mix(scene, settings)
    if settings.rules.reverberation is not None:
        response = impulse_response(settings.rules, settings.sample_rate, rng)
        mix = fftconvolve(mix, response)[: len(mix)]
    mix = mix + 10 ** (settings.rules.noise / 20) * rng.standard_normal(len(mix))
    return np.round(np.clip(mix, -1, 1) * 32767).astype(np.int16)
