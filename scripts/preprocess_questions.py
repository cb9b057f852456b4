"""Question JSON to vocabulary and question HDF5."""

from __future__ import annotations

from pathlib import Path

from _command import command


@command("preprocess_questions")
def main(config) -> None:
    from filmvqa.data.preprocess import preprocess_questions

    data = config.data
    for done in preprocess_questions(
        _questions_folder(Path(data.root)),
        data.h5,
        train_split=data.train_split,
        images_folder=data.images,
        vocab=config.vocab,
        extend_vocab=config.extend_vocab,
        allow_unknown=config.allow_unknown,
        min_count=config.min_count,
    ):
        state = "complete already" if done.was_there else "written"
        print(f"{data.h5}/{done.split}_questions.h5: {done.questions:,} questions, {state}")


def _questions_folder(root: Path) -> Path:
    """CLEVR-Humans keeps its files at the top; the others have a folder for them."""
    return root if any(root.glob("CLEVR-Humans-*.json")) else root / "questions"


if __name__ == "__main__":
    main()
