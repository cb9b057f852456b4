"""Generate a set in CLEVR's format: scenes, images and questions."""

from __future__ import annotations

from dataclasses import replace

from filmvqa.cli.command import command, typed_settings
from filmvqa.errors import UserError


@command("generate_clevr")
def main(config) -> None:
    from filmvqa.cli.settings import GenerateClevrConfig

    settings = typed_settings(config, GenerateClevrConfig)
    data = settings.data
    if data.generator is None:
        raise UserError(
            f"data={data.name} is downloaded, not generated; "
            f"run scripts/download_clevr.py data={data.name}"
        )

    from filmvqa.clevr.generate import generate

    generator = replace(data.generator, templates=settings.templates)
    if generate(data.root, generator, settings.workers):
        print(f"{data.root}: generated {generator.images} images")
    else:
        print(f"{data.root}: complete already")


if __name__ == "__main__":
    main()
