"""A whole pipeline as a user runs it: the scripts of each stage, then a table of all runs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from filmvqa.cli.stages import run_stage
from filmvqa.system.files import write_file
from filmvqa.system.layout import EvaluationLayout, RunLayout


def run_pipeline(
    folder: Path,
    stages: Mapping[str, Sequence[str]],
    runs: Sequence[str],
    *,
    command: str,
    of: str,
    usual: Mapping[str, float] | None = None,
    split: str = "val",
) -> None:
    """Run the stages' command lines, then print a table and write ``report.json``.

    Parameters
    ----------
    folder
        The folder of the runs' folders and of the report.
    runs
        The columns of the table: runs that the stages train, and evaluate on ``split``.
    command
        The command that resumes after a failure, such as ``make demo``.
    of
        What the questions are about, such as ``held-out images``.
    usual
        As for ``run_stages``.
    """
    from filmvqa.tasks.words import format_comparison

    seconds = run_stages(stages, command, usual)
    reports = {}
    for run in runs:
        files = EvaluationLayout(RunLayout(folder / run).evaluation, split)
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
    print(f"\nAccuracy on {summary[runs[0]]['questions']:,} questions about {of}:\n")
    print(format_comparison(reports))
    write_report(folder, summary, seconds)


def take_no_arguments(description: str | None) -> None:
    """Print a program's description for ``--help``, and refuse every other argument."""
    formatter = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=description, formatter_class=formatter).parse_args()


def run_stages(
    stages: Mapping[str, Sequence[str]], command: str, usual: Mapping[str, float] | None = None
) -> dict[str, float]:
    """Print and run the stages' command lines; returns each stage's duration in seconds.

    ``usual`` holds the stages' usual durations. From these, and the durations of the stages before,
    the line that announces a stage estimates the remaining time.
    """
    seconds: dict[str, float] = {}
    remaining, pace = dict(usual or {}), Pace()
    for number, (stage, command_lines) in enumerate(stages.items(), 1):
        left = pace.estimate(sum(remaining.values()))
        print(f"\nstage {number} of {len(stages)}, {stage}{left}", flush=True)
        remedy = f"{command} resumes from there"
        seconds[stage] = round(run_stage(command_lines, remedy, forked=True), 1)
        pace.note(seconds[stage], remaining.pop(stage, 0.0))
    return seconds


class Pace:
    """How much longer than usual stages take here, by those that had work to do."""

    def __init__(self) -> None:
        self._took = self._usual = 0.0

    def note(self, took: float, usual: float) -> None:
        """Note a stage's duration, unless it is so short that the stage was already complete."""
        if took > usual / 3:
            self._took, self._usual = self._took + took, self._usual + usual

    def estimate(self, usual: float) -> str:
        """The remaining time, as text, of stages that usually take ``usual`` seconds."""
        minutes = usual / 60 * (self._took / self._usual if self._usual else 1.0)
        if not minutes:
            return ""
        return f"; about {minutes:.0f} min left" if minutes >= 1.5 else "; about a minute left"


def write_report(folder: Path, content: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
    """Write ``report.json``, and print the stages' durations."""
    path = folder / "report.json"
    write_file(path, json.dumps({**content, "seconds": seconds}, indent=1) + "\n")
    durations = ", ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items())
    print(f"\n{sum(seconds.values()):.0f} s in all: {durations}; also in {path}")


def list_evaluations(folder: Path, runs: Sequence[str], split: str = "val") -> list[str]:
    """The command lines that evaluate the best checkpoint of each run on a split."""
    return [
        f"evaluate.py checkpoint={RunLayout(folder / run).best_checkpoint} split={split}"
        for run in runs
    ]
