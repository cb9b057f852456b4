"""Show what a trained network does with questions: figures, their numbers, and a page of both."""

from __future__ import annotations

from filmvqa.cli.command import command, typed_settings


@command("inspect_film")
def main(config) -> None:
    from filmvqa.cli.settings import InspectFilmConfig

    settings = typed_settings(config, InspectFilmConfig)

    from filmvqa.studies.inspection.report import inspect_checkpoint

    page = inspect_checkpoint(
        settings.checkpoint,
        settings.split,
        output=settings.output,
        h5=settings.h5,
        features=settings.features,
        max_questions=settings.max_questions,
        batch_size=settings.batch_size,
        device=settings.device,
        seed=settings.seed,
    )
    print(f"written to {page}; open it in a browser")


if __name__ == "__main__":
    main()
