"""Convert question JSON to a vocabulary and question HDF5."""

from __future__ import annotations

from filmvqa.cli.command import command, data_layout


@command("preprocess_questions")
def main(config) -> None:
    from filmvqa.data.preprocess import preprocess_questions

    layout = data_layout(config)
    for split in preprocess_questions(
        layout,
        train_split=config.data.train_split,
        vocab=config.vocab,
        extend_vocab=config.extend_vocab,
        allow_unknown=config.allow_unknown,
        min_count=config.min_count,
        missing_images=config.data.missing_images,
        incomplete=config.incomplete,
    ):
        print(f"{layout.question_h5(split.split)}: {split.describe()}")


if __name__ == "__main__":
    main()
