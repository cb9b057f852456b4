"""Convert question JSON to a vocabulary and question HDF5."""

from __future__ import annotations

from filmvqa.checkpoints.places import checkpoint_file
from filmvqa.cli.command import command
from filmvqa.questions.settings import PreprocessSettings


@command("preprocess_questions", PreprocessSettings)
def main(settings: PreprocessSettings) -> None:
    from filmvqa.questions.preprocess import preprocess_questions
    from filmvqa.questions.vocabulary import Vocabulary

    data, vocabulary = settings.data, None
    if settings.vocab is not None and not settings.vocab.endswith(".json"):
        checkpoint_file(settings.vocab)
        from filmvqa.checkpoints.checkpoint import vocabulary_in  # imports torch

        vocabulary = vocabulary_in(settings.vocab)
    for split in preprocess_questions(
        data.layout,
        settings,
        train_split=data.train_split,
        vocabulary=vocabulary,
        missing_images=data.missing_images,
        world=data.world,
    ):
        print(f"{data.layout.question_h5(split.split)}: {split.describe()}")
        if settings.targets:
            # This imports torch.
            from filmvqa.questions.write_program_targets import write_program_targets

            words = Vocabulary.load(data.layout.vocabulary)
            result = write_program_targets(data.layout, split.split, words, data.world)
            print(f"{data.layout.program_targets_h5(split.split)}: {result}")


if __name__ == "__main__":
    main()
