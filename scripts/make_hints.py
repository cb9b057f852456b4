"""Write the mistakes of a segmentation network as hints in words, a set to train on."""

from __future__ import annotations

from filmvqa.cli.command import command, typed_settings


@command("make_hints")
def main(config) -> None:
    from filmvqa.cli.settings import MakeHintsConfig

    settings = typed_settings(config, MakeHintsConfig)

    from filmvqa.uses.correction.hint_questions import make_hints

    counts = make_hints(
        settings.checkpoint,
        settings.output,
        settings.splits,
        hints=settings.hints,
        seed=settings.seed,
        h5=settings.h5,
        features=settings.features,
        batch_size=settings.batch_size,
        device=settings.device,
        precision=settings.precision,
    )
    if counts is None:
        print(f"{settings.output}: complete already")
    else:
        written = ", ".join(f"{count:,} texts for {split}" for split, count in counts.items())
        print(f"{settings.output}: {written}")


if __name__ == "__main__":
    main()
