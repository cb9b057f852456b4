"""The whole pipeline on a small generated set: generate, preprocess, extract, train, evaluate.

Prints and runs the commands of docs/guides/training.md, then prints a table and writes
``outputs/demo/report.json``.
"""

from __future__ import annotations

from pathlib import Path

from filmvqa.cli.pipeline import list_evaluations, run_pipeline, take_no_arguments

FOLDER = Path("outputs/demo")
RUNS = ("film", "question_only")
#: Command lines by stage.
STAGES: dict[str, list[str]] = {
    "generate": ["generate_clevr.py data=mini"],
    "preprocess": ["preprocess_questions.py data=mini"],
    "features": ["extract_features.py data=mini"],
    "train": [
        "train.py experiment=demo run=film",
        # With the size of FiLM's encoder and batch norm, as for the README's numbers.
        "train.py experiment=demo model=lstm run=question_only trainer.max_epochs=1 "
        "model.embedding_dim=64 model.hidden_dim=128 model.num_layers=1 "
        "model.classifier_dims=[256] model.classifier_norm=hidden",
    ],
    "evaluate": list_evaluations(FOLDER, RUNS),
}
#: Seconds of each stage on two cores of an EPYC.
USUAL = {"generate": 61.0, "preprocess": 3.0, "features": 9.0, "train": 237.0, "evaluate": 6.0}


def main() -> None:
    take_no_arguments(__doc__)
    run_pipeline(FOLDER, STAGES, RUNS, command="make demo", of="held-out images", usual=USUAL)


if __name__ == "__main__":
    main()
