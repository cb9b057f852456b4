"""Learn new words from ten pictures each, by γ and β alone and in other ways."""

from __future__ import annotations

from filmvqa.cli.command import command
from filmvqa.uses.few_shot.settings import FewShotSettings


@command("few_shot", FewShotSettings)
def main(settings: FewShotSettings) -> None:
    from filmvqa.uses.few_shot.report import format_few_shot, measure_few_shot

    folder, report = measure_few_shot(settings)
    print(format_few_shot(report))
    print(f"written to {folder}/few_shot.json, few_shot.md and few_shot.png")


if __name__ == "__main__":
    main()
