"""The whole pipeline on questions about sound: generate, preprocess, extract, train, evaluate.

Prints and runs the commands of docs/sound.md, then prints a table and writes
``outputs/sound/report.json``.
"""

from __future__ import annotations

from pathlib import Path

from filmvqa.cli.pipeline import list_evaluations, run_pipeline, take_no_arguments

FOLDER = Path("outputs/sound")
RUNS = ("film", "question_only", "cnn_lstm")
#: Command lines by stage.
STAGES: dict[str, list[str]] = {
    "generate": ["generate_sound.py data=sound"],
    "preprocess": ["preprocess_questions.py data=sound"],
    "features": ["extract_features.py data=sound"],
    "train": [
        "train.py experiment=sound run=film",
        # Both with the size of FiLM's encoder and batch norm, and without its curriculum.
        "train.py experiment=sound model=lstm run=question_only trainer.max_epochs=1 "
        "data.curriculum=null model.embedding_dim=64 model.hidden_dim=128 model.num_layers=1 "
        "model.classifier_dims=[256] model.classifier_norm=hidden",
        "train.py experiment=sound model=cnn_lstm_sound run=cnn_lstm trainer.max_epochs=1 "
        "trainer.questions_per_image=16 data.curriculum=null",
    ],
    "evaluate": list_evaluations(FOLDER, RUNS),
}


def main() -> None:
    take_no_arguments(__doc__)
    run_pipeline(FOLDER, STAGES, RUNS, command="make sound", of="held-out scenes")


if __name__ == "__main__":
    main()
