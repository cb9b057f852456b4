"""The whole pipeline on a set with CLEVR's full distribution, for one large GPU and 16 cores.

``python scripts/synthetic.py`` runs all stages, and ``python scripts/synthetic.py train`` those
whose names start with ``train``. A stage is interrupted after ``--limit`` seconds; the next run
resumes it. ``--small`` runs the same stages with 1,000 images, in minutes on two cores. Durations
and accuracies are written to ``outputs/synthetic[_small]/report.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from filmvqa.cli.stages import run_stage
from filmvqa.layout import EvaluationLayout, RunLayout

#: Experiments by their label in the report.
EXPERIMENTS = {
    "from pixels": "film_synthetic",
    "from features of clevr_cnn, trained on this world": "film_synthetic_features",
}
#: Data configs by experiment.
DATA = {"film_synthetic": "synthetic_pixels", "film_synthetic_features": "synthetic"}
#: Overrides of ``--small``, by what they override.
SMALL = {
    "data": "data.root=data/synthetic_small",
    # Few objects: so small a set has no examples of higher counts.
    "generator": "data.generator.images={train:1000,val:60,test:0} "
    "data.generator.width=112 data.generator.height=112 data.generator.rules.max_objects=5",
    "train": "model.encoder.hidden_dim=64 model.channels=32 trainer.batch_size=64 "
    "trainer.max_epochs=1 optim.warmup_steps=10",
}


def stages(small: bool) -> dict[str, list[str]]:
    """The command lines of each stage."""
    overrides = SMALL if small else dict.fromkeys(SMALL, "")
    name = _folder(small).name
    data, generator = overrides["data"], overrides["generator"]
    command_lines: dict[str, list[str]] = {
        "generate": [f"generate_clevr.py data=synthetic {data} {generator}"],
        "preprocess": [f"preprocess_questions.py data=synthetic {data}"],
    }
    for experiment in EXPERIMENTS.values():
        best = f"outputs/{name}/{experiment}/best.pt"
        run = f"name={name} run={experiment}"
        command_lines[f"extract {experiment}"] = [
            f"extract_features.py data={DATA[experiment]} {data}"
        ]
        command_lines[f"train {experiment}"] = [
            f"train.py experiment={experiment} {data} {run} {overrides['train']}"
        ]
        command_lines[f"evaluate {experiment}"] = [f"evaluate.py checkpoint={best} split=val"]
    return {
        stage: [" ".join(line.split()) for line in lines]  # without empty overrides
        for stage, lines in command_lines.items()
    }


def main() -> None:
    from filmvqa.files import write_file

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", nargs="*", help="beginnings of names; all stages if none is given")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--limit", type=float, default=600, help="seconds per stage (600)")
    options = parser.parse_args()
    all_stages = stages(options.small)
    if unknown := [s for s in options.stage if not any(name.startswith(s) for name in all_stages)]:
        parser.error(f"no stage {', '.join(unknown)}; choose from {', '.join(all_stages)}")
    path = _folder(options.small) / "report.json"
    report = {"seconds": {}, "accuracy": {}}
    if path.exists():
        report = json.loads(path.read_text(encoding="utf-8"))
    for stage, lines in all_stages.items():
        if options.stage and not any(stage.startswith(s) for s in options.stage):
            continue
        remedy = f"python scripts/synthetic.py {stage!r} goes on"
        report["seconds"][stage] = round(run_stage(lines, remedy, options.limit), 1)
        for label, experiment in EXPERIMENTS.items():
            run = RunLayout(path.parent / experiment)
            evaluation = EvaluationLayout(run.evaluation, "val").report
            if evaluation.exists():
                overall = json.loads(evaluation.read_text(encoding="utf-8"))["overall"]
                report["accuracy"][label] = overall["accuracy"]
        write_file(path, json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def _folder(small: bool) -> Path:
    return Path("outputs/synthetic_small" if small else "outputs/synthetic")


if __name__ == "__main__":
    main()
