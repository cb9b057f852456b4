"""Generate a set of sounds: scenes, recordings and questions; whole, or with -m in parts."""

from __future__ import annotations

from filmvqa.cli.command import command, typed_settings
from filmvqa.cli.settings import GenerateSettings


@command("generate_sound")
def main(config) -> None:
    settings = typed_settings(config, GenerateSettings)
    own = settings.data.set_settings("sound")

    from filmvqa.cli.generating import generate_set
    from filmvqa.worlds.sound.generate import MAKER

    generate_set(settings, own, MAKER)


if __name__ == "__main__":
    main()
