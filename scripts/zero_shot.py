"""The whole pipeline on unseen pairs of colour and shape, answered by arithmetic on γ and β.

Prints and runs the commands of docs/zero_shot.md, then prints a table and writes a figure and
``outputs/zero_shot/report.json``.
"""

from __future__ import annotations

from pathlib import Path

from filmvqa.cli.pipeline import run_stages, take_no_arguments, write_report

FOLDER = Path("outputs/zero_shot")
A, B = "valA", "valB"
RUNS = {"fine-tuned on B": FOLDER / "tuned", "trained on both": FOLDER / "both"}
EVALUATE = f"evaluate.py checkpoint={FOLDER}/film"
SUMS = ("direct", "cogent", "first", "second", "third", "mean")
#: Command lines by stage.
STAGES: dict[str, list[str]] = {
    "generate": ["generate_clevr.py data=cogent_mini", "generate_clevr.py data=cogent_both"],
    "preprocess": [
        "preprocess_questions.py data=cogent_mini",
        "preprocess_questions.py data=cogent_both vocab=data/cogent_mini/h5/vocab.json",
    ],
    "features": ["extract_features.py data=cogent_mini", "extract_features.py data=cogent_both"],
    "train": [
        "train.py experiment=zero_shot run=film",
        "train.py experiment=zero_shot_finetune run=tuned",
        "train.py experiment=zero_shot data=cogent_both run=both",
    ],
    "evaluate": [
        f"{EVALUATE} split={A}",
        f"{EVALUATE} split={B}",
        *(f"{EVALUATE} split={B} film.arithmetic={name}" for name in SUMS),
        f"{EVALUATE} split={B} film.arithmetic=cogent film.arithmetic_on=encoding",
        *(f"{EVALUATE} split={A} film.arithmetic={name} film.pairs=has" for name in SUMS[:2]),
        *(
            f"evaluate.py checkpoint={run} split={B} h5=data/cogent_mini/h5"
            for run in RUNS.values()
        ),
    ],
}


def main() -> None:
    take_no_arguments(__doc__)
    from filmvqa.uses.zero_shot.report import draw_arms, report_zero_shot

    seconds = run_stages(STAGES, "make zero_shot")
    report, table = report_zero_shot(FOLDER / "film", RUNS, A, B)
    draw_arms(report, FOLDER / "zero_shot.png")
    print(f"\n{table}\n\n{FOLDER}/zero_shot.png shows it")
    write_report(FOLDER, report, seconds)


if __name__ == "__main__":
    main()
