"""Convert a checkpoint of the original FiLM code to one that evaluate.py reads."""

from __future__ import annotations

from pathlib import Path

from filmvqa.cli.command import command, data_layout
from filmvqa.locks import file_lock


@command("import_film")
def main(config) -> None:
    from filmvqa.interop.film_import import import_original_film

    with file_lock(config.output):
        vocabulary = import_original_film(
            config.source,
            config.output,
            data_layout(config),
            train_split=config.data.train_split,
            val_split=config.data.val_split,
            padded_length=config.padded_length,
        )
    print(
        f"{config.output}: {len(vocabulary.question)} words, {len(vocabulary.answer)} answers; "
        f"encode questions with vocab={Path(config.output).parent / 'vocab.json'}"
    )


if __name__ == "__main__":
    main()
