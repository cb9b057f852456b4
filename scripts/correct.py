"""Correct the segmentations of a split hint by hint, with each network of a sweep."""

from __future__ import annotations

from filmvqa.cli.command import command, typed_settings


@command("correct")
def main(config) -> None:
    from filmvqa.cli.settings import CorrectConfig

    settings = typed_settings(config, CorrectConfig)

    from filmvqa.uses.correction.report import report_correction

    files, table = report_correction(
        settings.checkpoint,
        settings.dir,
        settings.split,
        hints=settings.hints,
        seed=settings.seed,
        h5=settings.h5,
        features=settings.features,
        output=settings.output,
        batch_size=settings.batch_size,
        device=settings.device,
        precision=settings.precision,
    )
    print(table)
    print(f"written to {files.report}, and beside it the table, two figures and all hints")


if __name__ == "__main__":
    main()
