"""Write a segmentation network's mistakes as hints in words, a set to train on."""

from __future__ import annotations

from filmvqa.cli.command import command
from filmvqa.uses.correction.settings import MakeHintsSettings


@command("make_hints", MakeHintsSettings)
def main(settings: MakeHintsSettings) -> None:
    from filmvqa.uses.correction.hint_questions import make_hints

    counts = make_hints(settings)
    if counts is None:
        print(f"{settings.output}: already complete")
    else:
        written = ", ".join(f"{count:,} texts for {split}" for split, count in counts.items())
        print(f"{settings.output}: {written}")


if __name__ == "__main__":
    main()
