"""Generate a set in CLEVR's format: scenes, images and questions."""

from __future__ import annotations

from dataclasses import replace

from filmvqa.cli.command import command, typed_settings
from filmvqa.errors import UserError


@command("generate_clevr")
def main(config) -> None:
    from filmvqa.clevr.generate import generate
    from filmvqa.clevr.generator_settings import GeneratorSettings

    if config.data.generator is None:
        raise UserError(
            f"data={config.data.name} is downloaded, not generated; "
            f"run scripts/download_clevr.py data={config.data.name}"
        )
    settings = typed_settings(config, "data.generator", GeneratorSettings)
    settings = replace(settings, templates=config.templates)
    if generate(config.data.root, settings, config.workers):
        print(f"{config.data.root}: generated {settings.images} images")
    else:
        print(f"{config.data.root}: complete already")


if __name__ == "__main__":
    main()
