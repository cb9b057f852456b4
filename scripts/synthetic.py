"""The whole way on CLEVR's full distribution, made for one large GPU with 16 cores.

``python scripts/synthetic.py`` runs all stages, ``... train`` those that begin so; each goes on
from where it was stopped, and is stopped after ``--limit`` seconds. ``--small`` goes the same way
with 1,000 images, in minutes on two cores. What each stage took, and the accuracies, go to
``outputs/synthetic[_small]/report.json``.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from filmvqa.cli.stages import run_stage

#: Experiments by the label of their row.
ROWS = {
    "from pixels": "film_synthetic",
    "from features of clevr_cnn, trained on this world": "film_synthetic_features",
}
DATA = {"film_synthetic": "synthetic_pixels", "film_synthetic_features": "synthetic"}
SMALL = {
    "data": "data.root=data/synthetic_small",
    # Few objects: of the higher numbers a set so small has no examples.
    "generator": "data.generator.images={train:1000,val:60,test:0} "
    "data.generator.width=112 data.generator.height=112 data.generator.rules.max_objects=5",
    "train": "model.encoder.hidden_dim=64 model.channels=32 trainer.batch_size=64 "
    "trainer.max_epochs=1 optim.warmup_steps=10",
}


def stages(small: bool) -> dict[str, list[str]]:
    """Command lines by stage."""
    own = SMALL if small else dict.fromkeys(SMALL, "")
    name = _folder(small).name
    found: dict[str, list[str]] = {
        "generate": [f"generate_clevr.py data=synthetic {own['data']} {own['generator']}"],
        "preprocess": [f"preprocess_questions.py data=synthetic {own['data']}"],
    }
    for experiment in ROWS.values():
        data = f"data={DATA[experiment]} {own['data']}"
        best = f"outputs/{name}/{experiment}/best.pt"
        run = f"name={name} run={experiment}"
        found[f"extract {experiment}"] = [f"extract_features.py {data}"]
        found[f"train {experiment}"] = [
            f"train.py experiment={experiment} {own['data']} {run} {own['train']}"
        ]
        found[f"evaluate {experiment}"] = [f"evaluate.py checkpoint={best} split=val"]
    return {stage: [" ".join(line.split()) for line in lines] for stage, lines in found.items()}


def main() -> None:
    from filmvqa.files import write_file

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", nargs="*", help="all of them if none is named")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--limit", type=float, default=600, help="seconds a stage (600)")
    options = parser.parse_args()
    todo = stages(options.small)
    if unknown := [s for s in options.stage if not any(name.startswith(s) for name in todo)]:
        parser.error(f"no stage {', '.join(unknown)}; choose from {', '.join(todo)}")
    path = _folder(options.small) / "report.json"
    report = json.loads(path.read_text()) if path.exists() else {"seconds": {}, "accuracy": {}}
    for stage, lines in todo.items():
        if options.stage and not any(stage.startswith(s) for s in options.stage):
            continue
        took = run_stage(lines, f"python scripts/synthetic.py {stage!r} goes on", options.limit)
        report["seconds"][stage] = round(took, 1)
        for row, experiment in ROWS.items():
            result = path.parent / experiment / "evaluation/val.json"
            if result.exists():
                report["accuracy"][row] = json.loads(result.read_text())["overall"]["accuracy"]
        write_file(path, json.dumps(report, indent=1) + "\n")
    print(json.dumps(report, indent=1))


def _folder(small: bool) -> Path:
    return Path("outputs/synthetic_small" if small else "outputs/synthetic")


if __name__ == "__main__":
    main()
