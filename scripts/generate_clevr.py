"""Generate a set in CLEVR's format: scenes, images and questions; whole, or with -m in parts."""

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

    from filmvqa.clevr.generate import generate, generate_part, merge_parts
    from filmvqa.clevr.parts import Part, said_missing

    generator = replace(data.generator, templates=settings.templates)
    if settings.parts is None:
        if generate(data.root, generator, settings.workers):
            print(f"{data.root}: generated {generator.images} images")
        else:
            print(f"{data.root}: complete already")
    elif settings.part is None:
        merge_parts(data.root, generator, settings.parts)
        print(f"{data.root}: merged {settings.parts} parts")
    else:
        part = Part(settings.part, settings.parts)
        missing = generate_part(data.root, generator, part, settings.workers)
        state = said_missing(missing, part.count) if missing else "the set is complete"
        print(f"{data.root}: {part} is made; {state}")


if __name__ == "__main__":
    main()
