"""Generate a set in CLEVR's format: scenes, images and questions; whole, or with -m in parts."""

from __future__ import annotations

from filmvqa.cli.command import command, typed_settings


@command("generate_clevr")
def main(config) -> None:
    from filmvqa.cli.settings import GenerateClevrConfig

    settings = typed_settings(config, GenerateClevrConfig)
    own = settings.data.set_settings("generator")

    from filmvqa.cli.generating import generate_set
    from filmvqa.worlds.clevr.generate import MAKER

    generate_set(settings, own, MAKER)


if __name__ == "__main__":
    main()
