"""The whole pipeline on CLEVR's full distribution: generate, preprocess, extract, train, evaluate.

``python scripts/synthetic.py`` runs all stages, and ``python scripts/synthetic.py train`` those
whose names start with ``train``. There are two ways: ``--way cores``, for two cores and a few
hours, and ``--way gpu``, for a large GPU and 16 cores. By default the machine decides. The next run
resumes a stage that was interrupted, or that ``--limit`` ended. ``--small`` runs the same stages on
1,000 images, in minutes on two cores. Durations and accuracies are written to
``outputs/synthetic_<way>[_small]/report.json``.
"""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filmvqa.cli.stages import count_training_processes, run_stage
from filmvqa.system.layout import EvaluationLayout, RunLayout


@dataclass(frozen=True)
class Experiment:
    """A training run, its name in the report, and the published results to compare it with."""

    name: str
    label: str
    data: str
    published: str
    small: str


@dataclass(frozen=True)
class Way:
    """A set, and the experiments on it."""

    data: str
    experiments: tuple[Experiment, ...]
    #: Overrides of ``--small``, with few objects, since so small a set hardly has higher counts.
    small_images: str


_SMALL_TRAINING = "trainer.batch_size=64 trainer.max_epochs=1 optim.warmup_steps=10"
_SMALL_FILM = f"model.encoder.hidden_dim=64 model.channels=32 {_SMALL_TRAINING}"
WAYS = {
    "gpu": Way(
        data="synthetic",
        experiments=(
            Experiment("film_synthetic", "FiLM from pixels", "synthetic_pixels", "film_pixels",
                       _SMALL_FILM),
            Experiment("film_synthetic_features", "FiLM", "synthetic", "film", _SMALL_FILM),
        ),
        small_images="data.generator.images={train:1000,val:60,test:0} data.generator.width=112 "
        "data.generator.height=112 data.generator.rules.max_objects=5",
    ),
    "cores": Way(
        data="two_cores",
        experiments=(
            Experiment("film_two_cores", "FiLM", "two_cores", "film", _SMALL_FILM),
            Experiment("mac_two_cores", "MAC", "two_cores", "mac",
                       f"model.dim=32 model.num_steps=2 {_SMALL_TRAINING}"),
        ),
        small_images="data.generator.images={train:1000,val:60,test:60} "
        "data.generator.rules.max_objects=5",
    ),
}  # fmt: skip


def folder_of(way: str, small: bool) -> Path:
    return Path("outputs") / f"synthetic_{way}{'_small' if small else ''}"


def stages(way: str, small: bool) -> dict[str, list[str]]:
    """The command lines of each stage."""
    plan, name = WAYS[way], folder_of(way, small).name
    data = f"data.root=data/{plan.data}_small" if small else ""
    images = plan.small_images if small else ""
    command_lines = {
        "generate": f"generate_clevr.py data={plan.data} {data} {images}",
        "preprocess": f"preprocess_questions.py data={plan.data} {data}",
    }
    for experiment in plan.experiments:
        run = f"name={name} run={experiment.name} {experiment.small if small else ''}"
        checkpoint = RunLayout(Path("outputs") / name / experiment.name).best_checkpoint
        extract = f"extract_features.py data={experiment.data} {data}"
        if extract not in command_lines.values():
            command_lines[f"extract {experiment.name}"] = extract
        command_lines[f"train {experiment.name}"] = (
            f"train.py experiment={experiment.name} {data} {run}"
        )
        command_lines[f"evaluate {experiment.name}"] = (
            f"evaluate.py checkpoint={checkpoint} split=val by_objects=true by_program_length=true"
        )
    return {stage: [" ".join(line.split())] for stage, line in command_lines.items()}


def compared(way: str, small: bool) -> tuple[dict[str, Any], str]:
    """The reports of the finished evaluations, by label, and their table with published results."""
    from filmvqa.studies.paper_results import COLUMNS, TEST_ACCURACY
    from filmvqa.tasks.words import format_comparison

    reports, published = {}, {}
    for experiment in WAYS[way].experiments:
        run = RunLayout(folder_of(way, small) / experiment.name)
        path = EvaluationLayout(run.evaluation, "val").report
        if path.exists():
            reports[experiment.label] = json.loads(path.read_text(encoding="utf-8"))
            values = dict(zip(COLUMNS, TEST_ACCURACY[experiment.published], strict=True))
            published[f"{experiment.label}, paper, on CLEVR"] = values
    return reports, format_comparison(reports, published) if reports else ""


def main() -> None:
    from filmvqa.system.files import write_file

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("stage", nargs="*", help="the beginning of stages' names; default: all")
    parser.add_argument("--way", choices=WAYS, help="default: gpu if there is one, else cores")
    parser.add_argument("--small", action="store_true", help="1,000 images")
    parser.add_argument("--limit", type=float, help="seconds per stage; default: none")
    options = parser.parse_args()
    way = options.way or default_way()
    all_stages = stages(way, options.small)
    if unknown := [s for s in options.stage if not any(name.startswith(s) for name in all_stages)]:
        parser.error(f"no stage {', '.join(unknown)}; choose from {', '.join(all_stages)}")
    path = folder_of(way, options.small) / "report.json"
    content: dict[str, Any] = {"seconds": {}}
    if path.exists():
        content = json.loads(path.read_text(encoding="utf-8"))
    for stage, lines in all_stages.items():
        if options.stage and not any(stage.startswith(s) for s in options.stage):
            continue
        remedy = f"python scripts/synthetic.py {stage!r} --way {way} resumes it"
        started = time.monotonic()
        try:
            run_stage(lines, remedy, options.limit, count_training_processes())
        finally:  # the duration of a resumed stage is that of all its parts
            so_far = content["seconds"].get(stage, 0.0)
            content["seconds"][stage] = round(so_far + time.monotonic() - started, 1)
            reports, table = compared(way, options.small)
            content["accuracy"] = reports
            write_file(path, json.dumps(content, indent=1) + "\n")
    if table:
        print(f"\n{table}")
    durations = ", ".join(f"{stage} {value:.0f} s" for stage, value in content["seconds"].items())
    print(f"{durations}; also in {path}")


def default_way() -> str:
    import torch

    return "gpu" if torch.cuda.is_available() else "cores"


if __name__ == "__main__":
    main()
