"""The settings of a generated set of sounds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from msgspec import Meta

from filmvqa.settings.typed import (
    Name,
    Natural,
    NotNegative,
    PathText,
    Positive,
    Probability,
    Seed,
    Settings,
    SplitName,
)
from filmvqa.system.errors import UserError
from filmvqa.worlds.engine.set_settings import Identifier, register_set_settings

#: The number of positions that have a name.
MAX_SOUNDS = 10
_Count = Annotated[int, Meta(ge=1, le=MAX_SOUNDS)]
_Decibels = Annotated[float, Meta(ge=-120, le=0)]
_Seconds = Annotated[float, Meta(gt=0, le=10)]
_Range = tuple[_Seconds, _Seconds]


@dataclass(frozen=True)
class SoundRules(Settings):
    """Constraints on the scenes.

    Attributes
    ----------
    min_sounds, max_sounds
        Range of the number of sounds of a scene.
    seconds
        Length of a scene.
    lead, gap, short, long
        Ranges of durations in seconds: the silence before the first sound, the silence between two
        sounds, a short sound, a long sound.
    beat
        Seconds from the start of one sound's turn to the start of the next. A sound starts after
        the beginning of its turn by a silence drawn from ``gap``. None: a turn starts when the
        previous sound ends.
    quiet, loud
        Level of quiet and loud sounds: root mean square over their duration in dB of full scale,
        which is that of a full-scale square wave.
    spread
        Maximal deviation from these levels in dB.
    noise
        Level of the background noise in dB of full scale.
    reverberation
        Level of the reverberation in dB relative to the direct sound; None disables it.
    reverberation_seconds
        Time in which the reverberation falls by 60 dB.
    variants
        Number of sounds of each instrument, note, brightness and length.
    """

    node: ClassVar[str] = "data.sound.rules"

    min_sounds: _Count = 8
    max_sounds: _Count = 10
    seconds: _Seconds = 6.4
    lead: _Range = (0.02, 0.2)
    gap: _Range = (0.02, 0.09)
    beat: _Seconds | None = 0.6
    short: _Range = (0.2, 0.26)
    long: _Range = (0.42, 0.5)
    quiet: _Decibels = -30.0
    loud: _Decibels = -20.0
    spread: NotNegative = 1.5
    noise: _Decibels = -58.0
    reverberation: _Decibels | None = -26.0
    reverberation_seconds: _Seconds = 0.3
    variants: Positive = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        override = self.as_override
        for name in ("lead", "gap", "short", "long"):
            low, high = getattr(self, name)
            if low > high:
                raise UserError(f"{override(name)}: give the shorter one first")
        if self.min_sounds > self.max_sounds:
            raise UserError(
                f"{override('min_sounds')}: is above {override('max_sounds')}; lower it"
            )
        turn = max(self.long[1], self.short[1]) + self.gap[1]
        if self.beat is not None and turn > self.beat:
            raise UserError(
                f"{override('beat')}: turns take up to {turn:.2f} s with {override('long')} "
                f"{override('short')} {override('gap')}; raise it, or lower these"
            )
        longest = self.lead[1] + self.max_sounds * (turn if self.beat is None else self.beat)
        if longest > self.seconds:
            names = ("lead", "max_sounds", "long", "short", "gap", "beat")
            raise UserError(
                f"{override('seconds')}: scenes take up to {longest:.2f} s with "
                f"{' '.join(map(override, names))}; raise it, or lower these"
            )


@register_set_settings(world="sound", prefix="SOUND", program="generate_sound")
@dataclass(frozen=True)
class SoundSettings(Settings):
    """Settings that determine every byte of a generated set of sounds.

    Attributes
    ----------
    images
        Number of scenes of each split; a split with 0 is not generated.
    sample_rate
        Sample rate in Hz.
    seed
        Random seed of sounds, scenes and questions.
    questions_per_image
        Maximal number of questions about one scene.
    short_questions, families, templates, withhold, date
        As in ``GeneratorSettings``.
    rules
        Constraints on the scenes.
    """

    node: ClassVar[str] = "data.sound"

    images: dict[Identifier, Natural]
    sample_rate: Annotated[int, Meta(ge=20_000, le=48_000)] = 22_050
    seed: Seed = 0
    questions_per_image: Positive = 10
    short_questions: dict[Identifier, Probability] | None = None
    families: Annotated[list[str | int], Meta(min_length=1)] | None = None
    templates: PathText | None = None
    withhold: tuple[SplitName, ...] = ()
    date: Name = "2026-11-26"
    rules: SoundRules = field(default_factory=SoundRules)
