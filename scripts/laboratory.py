"""Train, evaluate and report the runs that try a claim about FiLM."""

from __future__ import annotations

import os
from pathlib import Path

from filmvqa.cli.command import command, typed_settings
from filmvqa.cli.packed import packed_folder
from filmvqa.cli.stages import run_stage
from filmvqa.cores import cores


@command("laboratory")
def main(config) -> None:
    from filmvqa.cli.settings import LaboratoryConfig

    settings = typed_settings(config, LaboratoryConfig)

    from filmvqa.files import write_file
    from filmvqa.reports.claims import read_claim
    from filmvqa.reports.laboratory import report_claim, verdicts_table

    known = packed_folder("configs") / "claim"
    names = settings.claims or sorted(path.stem for path in known.glob("*.yaml"))
    paths = [Path(name) if name.endswith(".yaml") else known / f"{name}.yaml" for name in names]
    claims = [read_claim(path) for path in paths]
    jobs = settings.jobs or cores()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    runs, output = Path(settings.runs), Path(settings.output)
    reports = []
    for claim in claims:
        if settings.train:
            hours = claim.runs * claim.minutes / 60 / jobs
            print(f"\n{claim.title}: {claim.runs} runs, {jobs} at a time, about {hours:.1f} hours "
                  "in all; those that are finished are not run again", flush=True)  # fmt: skip
            run_stage(
                [
                    f"train.py -m {overrides} hydra.sweep.dir={runs / folder} "
                    f"hydra/launcher=joblib hydra.launcher.n_jobs={jobs}"
                    for folder, sweeps in claim.sweeps.items()
                    for overrides in sweeps
                ],
                "the laboratory goes on from there",
            )
        report = report_claim(claim, runs, output, settings.split, settings.margin / 100)
        reports.append(report)
    verdicts = verdicts_table(reports)
    write_file(output / "verdicts.md", verdicts)
    print(f"\n{verdicts}\nwritten to {output}")


if __name__ == "__main__":
    main()
