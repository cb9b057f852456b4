"""The whole way on a small world: generate, preprocess, extract, train, evaluate, compare.

Runs the same commands that the README gives, prints each, and ends with a table and
``outputs/demo/report.json``.
"""

from __future__ import annotations

import json
from pathlib import Path

from filmvqa.cli.stages import run_stage

FOLDER = Path("outputs/demo")
MODELS = {"film": "film_small", "question_only": "lstm"}
STAGES: dict[str, list[str]] = {
    "generate": ["generate_clevr.py data=mini"],
    "preprocess": ["preprocess_questions.py data=mini"],
    "features": ["extract_features.py data=mini"],
    "train": [
        "train.py experiment=demo model=film_small run=film",
        "train.py experiment=demo model=lstm run=question_only trainer.max_epochs=1",
    ],
    "evaluate": [f"evaluate.py checkpoint={FOLDER}/{run}/best.pt split=val" for run in MODELS],
}


def main() -> None:
    from filmvqa.evaluation.accuracy import format_comparison
    from filmvqa.files import write_file

    seconds = {}
    for stage, lines in STAGES.items():
        seconds[stage] = round(run_stage(lines, "make demo goes on from there"), 1)
    reports = {
        run: json.loads((FOLDER / run / "evaluation/val.json").read_text()) for run in MODELS
    }
    summary = {
        run: {
            "overall": report["overall"]["accuracy"],
            "by_type": {kind: row["accuracy"] for kind, row in report["by_type"].items()},
            "questions": report["overall"]["questions"],
        }
        for run, report in reports.items()
    }
    report = json.dumps({**summary, "seconds": seconds}, indent=1) + "\n"
    write_file(FOLDER / "report.json", report)
    print(f"\nAccuracy on {summary['film']['questions']:,} questions about held-out images:\n")
    print(format_comparison(reports))
    parts = ", ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items())
    print(f"\n{sum(seconds.values()):.0f} s in all: {parts}; also in {FOLDER}/report.json")


if __name__ == "__main__":
    main()
