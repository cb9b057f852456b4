"""A checkpoint of the original FiLM code as one that evaluate.py takes."""

from __future__ import annotations

from pathlib import Path

from _command import command

from filmvqa.training.importing import import_original_film
from filmvqa.training.run import DataFiles


@command("import_film")
def main(config) -> None:
    data = config.data
    files = DataFiles(
        Path(data.h5), Path(data.features), data.backbone.name, data.train_split, data.val_split
    )
    vocabulary = import_original_film(config.source, config.output, files, config.padded_length)
    print(
        f"{config.output}: {len(vocabulary.question)} words, {len(vocabulary.answer)} answers; "
        f"encode questions with vocab={Path(config.output).parent / 'vocab.json'}"
    )


if __name__ == "__main__":
    main()
