"""Train, evaluate and report the runs that test a claim about FiLM."""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from filmvqa.cli.command import command
from filmvqa.cli.job_folders import EXCLUDE_KEYS, LEFT_OUT, expand_jobs, find_swept_keys
from filmvqa.cli.overrides import compose_config
from filmvqa.cli.packed import packed_folder
from filmvqa.cli.stages import run_stage
from filmvqa.studies.settings import LaboratorySettings
from filmvqa.system.cores import cores
from filmvqa.system.files import read_bytes, write_file
from filmvqa.system.side_output import going_on_without


@command("laboratory", LaboratorySettings)
def main(settings: LaboratorySettings) -> None:
    shipped = packed_folder("configs") / "claim"
    paths = sorted(shipped.rglob("*.yaml"))
    shipped_claims = {str(path.relative_to(shipped).with_suffix("")): path for path in paths}
    # Claims in subfolders are parts of others, or about other worlds.
    names = settings.claims or [name for name in shipped_claims if "/" not in name]
    files = [Path(name) if name.endswith(".yaml") else shipped / f"{name}.yaml" for name in names]
    for path in files:
        read_bytes(path, "write the claim's settings to it")

    from filmvqa.studies.claims import find_runs, read_claim
    from filmvqa.studies.laboratory import list_verdicts, report_claim
    from filmvqa.studies.raw_results import find_complete, read_kept_runs
    from filmvqa.studies.sweeps import is_finished
    from filmvqa.studies.verdicts import draw_forest, keep_verdicts, list_sentences
    from filmvqa.uses.zero_shot.arithmetic import build_change

    claims = [read_claim(path, name) for path, name in zip(files, names, strict=True)]
    jobs = settings.jobs or cores()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    runs, results, output = map(Path, (settings.runs, settings.results, settings.output))
    rows = []
    for claim in claims:
        split = claim.split or settings.split
        kept = find_complete(read_kept_runs(results, claim, split), claim)
        if settings.redraw and not (kept or settings.claims):
            continue
        if settings.train and not settings.redraw:
            finished = {run.folder.relative_to(runs).as_posix()
                        for run in find_runs(claim, runs) if is_finished(run)}  # fmt: skip
            missing = max(0, claim.runs - len(finished | kept))
            hours = missing * claim.minutes / 60 / jobs
            print(f"\n{claim.title}: {missing} of {claim.runs} runs to do, {jobs} at a time, about "
                  f"{hours:.1f} hours", flush=True)  # fmt: skip
            run_stage(
                [
                    f"train.py -m {command} hydra.sweep.dir={runs / folder} "
                    f"hydra/launcher=joblib hydra.launcher.n_jobs={jobs}"
                    for folder, sweeps in claim.sweeps.items()
                    for overrides in sweeps
                    for command in list_commands(overrides, folder, kept)
                ],
                "the laboratory resumes from there",
            )
        margin = settings.margin / 100
        report = report_claim(
            claim, runs, results, output, split, margin, settings.redraw, build_change
        )
        rows += list_verdicts(report)
    verdicts = keep_verdicts(results, rows)
    text = list_sentences(verdicts)
    write_file(output / "verdicts.md", text)
    with going_on_without(f"{output}/forest.png"):
        draw_forest(verdicts, output / "forest.png")
    print(f"\n{text}\nwritten to {output}, raw results to {results}")


def list_commands(overrides: str, folder: str, kept: set[str]) -> list[str]:
    """The overrides of ``train.py -m`` for the runs of a sweep that are not kept: the sweep's if no
    run is kept, else those of each setting with its missing seeds."""
    line = shlex.split(overrides)
    sweep = [word for word in line if word.startswith("sweep=")]
    config = compose_config(packed_folder("configs"), "train", sweep, return_hydra_config=True)
    params = config.hydra.sweeper.params or {}
    # Sweeps that share a folder also differ in keys that they do not vary.
    left_out = LEFT_OUT - find_swept_keys(line, params)
    named = f"{EXCLUDE_KEYS}=[{','.join(sorted(left_out))}]"
    all_jobs = expand_jobs(line, params)
    missing = [job for name, job in all_jobs.items() if f"{folder}/{name}" not in kept]
    if len(missing) == len(all_jobs):
        return [f"{overrides} {named}"]
    seeds: dict[str, list[str]] = {}
    for job in missing:
        words = [word for word in job if not word.startswith("seed=")]
        seed = [word.removeprefix("seed=") for word in job if word not in words]
        seeds.setdefault(shlex.join(words), []).extend(seed)
    return [
        f"{words} {named}" + (f" seed={','.join(of_setting)}" if of_setting else "")
        for words, of_setting in seeds.items()
    ]


if __name__ == "__main__":
    main()
