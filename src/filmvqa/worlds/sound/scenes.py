"""Scenes, which are random sequences of sounds, and their records."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from filmvqa.worlds.engine.scene_records import register_relate
from filmvqa.worlds.engine.schema import Info, check_filename, check_relationships
from filmvqa.worlds.engine.world import read_world
from filmvqa.worlds.sound.instruments import note_frequency
from filmvqa.worlds.sound.settings import SoundSettings

SOUND = read_world("sound")
#: The attributes that, with the variant, identify a distinct sound.
BANK_ATTRIBUTES = ("instrument", "note", "brightness", "length")


class Sound(msgspec.Struct):
    """One sound of a scene.

    Attributes
    ----------
    instrument, note, brightness, loudness, length, position
        Attribute values; ``position`` is ``first`` to ``tenth``.
    onset, duration
        In seconds.
    frequency
        Frequency of the note in Hz.
    level
        Root mean square over the duration, in dB of full scale, without noise and reverberation.
    variant
        Index among the sounds of the same instrument, note, brightness and length.
    """

    instrument: str
    note: str
    brightness: str
    loudness: str
    length: str
    position: str
    onset: float
    duration: float
    frequency: float
    level: float
    variant: int


class SoundScene(msgspec.Struct):
    """The sounds of one recording, in the order of their onsets.

    ``relationships[r][i]`` lists the sounds that are in relation r to sound i: for ``before``,
    those before sound i. ``image_index`` and ``image_filename`` refer to the recording; their
    names are those of CLEVR's format.
    """

    image_index: int
    image_filename: str
    split: str
    seconds: float
    objects: list[Sound]
    relationships: dict[str, list[list[int]]]

    def __post_init__(self) -> None:
        check_filename(self.image_filename)
        check_relationships(self.relationships, len(self.objects), SOUND.relations)


class SoundSceneFile(msgspec.Struct):
    info: Info
    scenes: list[SoundScene]


def scene_generator(settings: SoundSettings, split: str, index: int) -> np.random.Generator:
    """The random generator of a scene, which draws its sounds first and then its noise."""
    return np.random.default_rng([settings.seed, zlib.crc32(split.encode()), index])


def sample_scene(
    settings: SoundSettings, split: str, index: int, rng: np.random.Generator
) -> SoundScene:
    """Draw a scene, which depends only on the settings, split and index."""
    rules = settings.rules
    count = int(rng.integers(rules.min_sounds, rules.max_sounds + 1))
    turn, sounds = rng.uniform(*rules.lead), []
    for position in SOUND.attributes["position"][:count]:
        values = {name: str(rng.choice(SOUND.attributes[name])) for name in SOUND.filter_attributes}
        variant = int(rng.integers(rules.variants))
        duration, _ = start_sound(settings, [values[name] for name in BANK_ATTRIBUTES], variant)
        level = getattr(rules, values["loudness"]) + rng.uniform(-rules.spread, rules.spread)
        onset = _to_sample(turn + rng.uniform(*rules.gap), settings)
        sounds.append(
            Sound(
                **values, position=position, onset=onset, duration=duration,
                frequency=note_frequency(values["note"]), level=float(level), variant=variant,
            )
        )  # fmt: skip
        turn = onset + duration if rules.beat is None else turn + rules.beat
    return SoundScene(
        index, file_name(split, index), split, rules.seconds, sounds, order_relations(count)
    )


def order_relations(count: int) -> dict[str, list[list[int]]]:
    """The relationships of ``count`` sounds in their order."""
    return {
        "before": [list(range(i)) for i in range(count)],
        "after": [list(range(i + 1, count)) for i in range(count)],
    }


@register_relate("sound")
def relate(scene: dict[str, Any]) -> dict[str, list[list[int]]]:
    """Compute the relationships of a decoded scene from the order of its sounds.

    Raises
    ------
    ValueError
        If the sounds are not in the order of their positions.
    """
    positions = [sound["position"] for sound in scene["objects"]]
    if positions != list(SOUND.attributes["position"][: len(positions)]):
        raise ValueError("its sounds are not in the order of their positions")
    return order_relations(len(positions))


def start_sound(
    settings: SoundSettings, values: Sequence[str], variant: int
) -> tuple[float, np.random.Generator]:
    """The duration of a distinct sound in seconds, and the random generator that drew it and
    synthesises the sound; ``values`` are those of ``BANK_ATTRIBUTES``."""
    named = zip(BANK_ATTRIBUTES, values, strict=True)
    numbers = [SOUND.attributes[name].index(value) for name, value in named]
    rng = np.random.default_rng([settings.seed, zlib.crc32(b"bank"), *numbers, variant])
    limits = settings.rules.short if values[-1] == "short" else settings.rules.long
    return _to_sample(rng.uniform(*limits), settings), rng


def _to_sample(seconds: float, settings: SoundSettings) -> float:
    """Round a time to a whole number of samples."""
    return round(seconds * settings.sample_rate) / settings.sample_rate


def file_name(split: str, index: int) -> str:
    """The file name of a scene's recording."""
    return f"SOUND_{split}_{index:06d}.wav"
