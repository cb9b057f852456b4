"""Generate a set of sounds (scenes, recordings, questions), whole or, with -m, in parts."""

from __future__ import annotations

from filmvqa.cli.command import command
from filmvqa.cli.settings import GenerateSettings


@command("generate_sound", GenerateSettings)
def main(settings: GenerateSettings) -> None:
    set_settings = settings.data.set_settings("sound")

    from filmvqa.cli.generating import generate_set
    from filmvqa.worlds.sound.generate import MAKER

    generate_set(settings, set_settings, MAKER)


if __name__ == "__main__":
    main()
