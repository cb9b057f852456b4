"""Generate questions about the scenes of a file."""

from __future__ import annotations

from filmvqa.cli.command import command, typed_settings
from filmvqa.system.cores import cores
from filmvqa.system.locks import file_lock


@command("generate_questions")
def main(config) -> None:
    from filmvqa.cli.settings import GenerateQuestionsConfig

    settings = typed_settings(config, GenerateQuestionsConfig)

    from filmvqa.cli.generating import relate_of
    from filmvqa.worlds.engine.ask_scenes import ask_scenes

    with file_lock(settings.output):
        count = ask_scenes(
            settings.scenes,
            settings.output,
            world=settings.world,
            relate=relate_of(settings.world),
            templates=settings.templates,
            families=settings.families,
            questions_per_image=settings.questions_per_image,
            seed=settings.seed,
            workers=settings.workers or cores(),
        )
    print(f"{settings.output}: {count:,} questions")


if __name__ == "__main__":
    main()
