"""The whole pipeline on a small generated set: generate, preprocess, extract, train, evaluate.

Runs and prints the commands of the README, and ends with a table and
``outputs/demo/report.json``.
"""

from __future__ import annotations

import json
from pathlib import Path

from filmvqa.cli.stages import run_stage
from filmvqa.layout import EvaluationLayout, RunLayout

FOLDER = Path("outputs/demo")
RUNS = ("film", "question_only")
#: Command lines by stage.
STAGES: dict[str, list[str]] = {
    "generate": ["generate_clevr.py data=mini"],
    "preprocess": ["preprocess_questions.py data=mini"],
    "features": ["extract_features.py data=mini"],
    "train": [
        "train.py experiment=demo run=film",
        # Of the size of FiLM's encoder, and with batch norm, as the README's numbers were measured.
        "train.py experiment=demo model=lstm run=question_only trainer.max_epochs=1 "
        "model.embedding_dim=64 model.hidden_dim=128 model.num_layers=1 "
        "model.classifier_dims=[256] model.classifier_norm=hidden",
    ],
    "evaluate": [
        f"evaluate.py checkpoint={RunLayout(FOLDER / run).best_checkpoint} split=val"
        for run in RUNS
    ],
}


def main() -> None:
    from filmvqa.evaluation.accuracy import format_comparison
    from filmvqa.files import write_file

    seconds = {}
    for stage, command_lines in STAGES.items():
        seconds[stage] = round(run_stage(command_lines, "make demo goes on from there"), 1)
    reports = {}
    for run in RUNS:
        files = EvaluationLayout(RunLayout(FOLDER / run).evaluation, "val")
        reports[run] = json.loads(files.report.read_text(encoding="utf-8"))
    summary = {
        run: {
            "overall": report["overall"]["accuracy"],
            "by_type": {
                question_type: row["accuracy"] for question_type, row in report["by_type"].items()
            },
            "questions": report["overall"]["questions"],
        }
        for run, report in reports.items()
    }
    content = json.dumps({**summary, "seconds": seconds}, indent=1) + "\n"
    write_file(FOLDER / "report.json", content)
    print(f"\nAccuracy on {summary['film']['questions']:,} questions about held-out images:\n")
    print(format_comparison(reports))
    durations = ", ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items())
    print(f"\n{sum(seconds.values()):.0f} s in all: {durations}; also in {FOLDER}/report.json")


if __name__ == "__main__":
    main()
