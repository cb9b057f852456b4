"""Generate a CLEVR-format set: scenes, images, questions."""

from __future__ import annotations

from _command import command, plain

from filmvqa.clevr.generate import GeneratorSettings, generate
from filmvqa.clevr.scenes import SceneRules
from filmvqa.errors import UserError


@command("generate_clevr")
def main(config) -> None:
    options = plain(config.data.generator)
    if options is None:
        raise UserError(
            f"data={config.data.name} is downloaded, not generated; "
            f"run scripts/download_clevr.py data={config.data.name}"
        )
    rules = SceneRules(**options.pop("rules"))
    settings = GeneratorSettings(**options, rules=rules)
    if generate(config.data.root, settings, config.workers):
        print(f"{config.data.root}: generated {plain(config.data.generator.images)} images")
    else:
        print(f"{config.data.root}: complete already")


if __name__ == "__main__":
    main()
