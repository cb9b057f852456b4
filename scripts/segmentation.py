"""The whole pipeline on referring expressions: generate, preprocess, extract, train, evaluate.

Prints and runs the commands of docs/segmentation.md, then writes a picture of masks and
``outputs/segmentation/report.json``.
"""

from __future__ import annotations

import json
from pathlib import Path

from filmvqa.cli.pipeline import run_stages, take_no_arguments, write_report
from filmvqa.system.layout import DatasetLayout, EvaluationLayout, RunLayout

FOLDER = Path("outputs/segmentation")
RUN, SPLIT = "film", "test"
BEST = RunLayout(FOLDER / RUN).best_checkpoint
#: Command lines by stage.
STAGES: dict[str, list[str]] = {
    "generate": ["generate_clevr.py data=referring"],
    "preprocess": ["preprocess_questions.py data=referring"],
    "features": ["extract_features.py data=referring"],
    "train": [f"train.py experiment=segmentation run={RUN}"],
    "evaluate": [f"evaluate.py checkpoint={BEST} split={SPLIT} by_program_length=true"],
}


def main() -> None:
    take_no_arguments(__doc__)
    from filmvqa.studies.sheets import draw_masks

    seconds = run_stages(STAGES, "make segmentation")
    files = EvaluationLayout(RunLayout(FOLDER / RUN).evaluation, SPLIT)
    layout = DatasetLayout.under("data/referring")
    draw_masks(files.predictions, layout, SPLIT, FOLDER / "masks.png")
    report = json.loads(files.report.read_text(encoding="utf-8"))
    mean = 100 * report["overall"]["mean_iou"]
    print(f"\nmean IoU {mean:.1f}% on held-out images; {FOLDER}/masks.png shows some")
    write_report(FOLDER, report, seconds)


if __name__ == "__main__":
    main()
