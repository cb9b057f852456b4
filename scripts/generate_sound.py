"""Generate a set of sounds: scenes, recordings and questions; whole, or with -m in parts."""

from __future__ import annotations

from filmvqa.cli.command import command, typed_settings
from filmvqa.system.errors import UserError


@command("generate_sound")
def main(config) -> None:
    from filmvqa.cli.settings import GenerateSoundConfig

    settings = typed_settings(config, GenerateSoundConfig)
    data = settings.data
    if data.sound is None:
        raise UserError(f"data={data.name} has no sounds; {data.how_made()}")

    from filmvqa.cli.generating import generate_set
    from filmvqa.worlds.sound import generate

    generate_set(settings, data.sound, generate)


if __name__ == "__main__":
    main()
