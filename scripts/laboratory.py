"""Train, evaluate and report the runs that try a claim about FiLM."""

from __future__ import annotations

import os
from pathlib import Path

from filmvqa.cli.command import command
from filmvqa.cli.job_folders import EXCLUDE_KEYS, LEFT_OUT
from filmvqa.cli.packed import packed_folder
from filmvqa.cli.stages import run_stage
from filmvqa.studies.settings import LaboratorySettings
from filmvqa.system.cores import cores
from filmvqa.system.files import read_bytes, write_file


@command("laboratory", LaboratorySettings)
def main(settings: LaboratorySettings) -> None:
    shipped = packed_folder("configs") / "claim"
    paths = sorted(shipped.rglob("*.yaml"))
    known = {str(path.relative_to(shipped).with_suffix("")): path for path in paths}
    # Those in folders of their own are parts of others, or of other worlds.
    names = settings.claims or [name for name in known if "/" not in name]
    files = [Path(name) if name.endswith(".yaml") else shipped / f"{name}.yaml" for name in names]
    for path in files:
        read_bytes(path, "write a claim's settings to it")

    from filmvqa.studies.claims import find_runs, read_claim
    from filmvqa.studies.laboratory import report_claim, tabulate_verdicts
    from filmvqa.studies.sweeps import is_finished

    claims = [read_claim(path, name) for path, name in zip(files, names, strict=True)]
    jobs = settings.jobs or cores()
    # Sweeps that share a folder differ also in what they do not vary.
    named = f"{EXCLUDE_KEYS}=[{','.join(sorted(LEFT_OUT))}]"
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    runs, output = Path(settings.runs), Path(settings.output)

    def reported(claim):
        return report_claim(claim, runs, output, settings.split, settings.margin / 100)

    reports = []
    for claim in claims:
        if settings.train:
            missing = max(0, claim.runs - sum(map(is_finished, find_runs(claim, runs))))
            hours = missing * claim.minutes / 60 / jobs
            print(f"\n{claim.title}: {missing} of {claim.runs} runs to do, {jobs} at a time, about "
                  f"{hours:.1f} hours", flush=True)  # fmt: skip
            run_stage(
                [
                    f"train.py -m {overrides} {named} hydra.sweep.dir={runs / folder} "
                    f"hydra/launcher=joblib hydra.launcher.n_jobs={jobs}"
                    for folder, sweeps in claim.sweeps.items()
                    for overrides in sweeps
                ],
                "the laboratory goes on from there",
            )
        reports.append(reported(claim))
    # The claims that earlier calls have reported stay in the table.
    others = [
        read_claim(path, name)
        for name, path in known.items()
        if name not in names and (output / f"{path.stem}.md").exists()
    ]
    reports += [reported(claim) for claim in others if find_runs(claim, runs)]
    verdicts = tabulate_verdicts(sorted(reports, key=lambda report: report.claim.name))
    write_file(output / "verdicts.md", verdicts)
    print(f"\n{verdicts}\nwritten to {output}")


if __name__ == "__main__":
    main()
