"""Convert question JSON to a vocabulary and question HDF5."""

from __future__ import annotations

from filmvqa.cli.command import command, typed_settings


@command("preprocess_questions")
def main(config) -> None:
    from filmvqa.cli.settings import PreprocessQuestionsConfig

    settings = typed_settings(config, PreprocessQuestionsConfig)

    from filmvqa.questions.preprocess import preprocess_questions

    layout = settings.data.layout
    vocab = settings.vocab
    if vocab is not None and not vocab.endswith(".json"):
        from filmvqa.checkpoints.checkpoint import checkpoint_file, load_checkpoint, vocabulary_of
        from filmvqa.checkpoints.exported import SUFFIX

        if checkpoint_file(vocab).suffix in (".pt", SUFFIX):
            vocab = vocabulary_of(load_checkpoint(vocab), vocab)
    for split in preprocess_questions(
        layout,
        train_split=settings.data.train_split,
        vocab=vocab,
        extend_vocab=settings.extend_vocab,
        allow_unknown=settings.allow_unknown,
        min_count=settings.min_count,
        missing_images=settings.data.missing_images,
        incomplete=settings.incomplete,
        world=settings.data.world,
    ):
        print(f"{layout.question_h5(split.split)}: {split.describe()}")


if __name__ == "__main__":
    main()
