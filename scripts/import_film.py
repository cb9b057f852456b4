"""Convert a checkpoint of the original FiLM code for evaluate.py."""

from __future__ import annotations

from pathlib import Path

from filmvqa.checkpoints.settings import ImportSettings
from filmvqa.cli.command import command
from filmvqa.system.locks import file_lock


@command("import_film", ImportSettings)
def main(settings: ImportSettings) -> None:
    from filmvqa.checkpoints.film_import import import_original_film

    with file_lock(settings.output):
        vocabulary = import_original_film(settings)
    print(
        f"{settings.output}: {len(vocabulary.question)} words, {len(vocabulary.answer)} answers; "
        f"encode questions with vocab={Path(settings.output).parent / 'vocab.json'}"
    )


if __name__ == "__main__":
    main()
