"""A whole pipeline as a user runs it: the scripts of each stage, then one table of all runs."""

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
    folder: Path, stages: Mapping[str, Sequence[str]], runs: Sequence[str], *, command: str, of: str
) -> None:
    """Run and print the command lines of the stages, and end with a table and ``report.json``.

    Parameters
    ----------
    folder
        That of the runs' folders, and of the report.
    runs
        The columns of the table: runs that the stages train, and evaluate on ``val``.
    command
        What goes on from the stage that failed, such as ``make demo``.
    of
        What the questions are about, such as ``held-out images``.
    """
    from filmvqa.tasks.words import format_comparison

    seconds = run_stages(stages, command)
    reports = {}
    for run in runs:
        files = EvaluationLayout(RunLayout(folder / run).evaluation, "val")
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
    """Print what a program does for ``--help``, and refuse every other argument."""
    formatter = argparse.RawDescriptionHelpFormatter
    argparse.ArgumentParser(description=description, formatter_class=formatter).parse_args()


def run_stages(stages: Mapping[str, Sequence[str]], command: str) -> dict[str, float]:
    """Run and print the command lines of the stages; returns the seconds that each took."""
    return {
        stage: round(run_stage(command_lines, f"{command} goes on from there"), 1)
        for stage, command_lines in stages.items()
    }


def write_report(folder: Path, content: Mapping[str, Any], seconds: Mapping[str, float]) -> None:
    """Write ``report.json``, and print how long each stage took."""
    path = folder / "report.json"
    write_file(path, json.dumps({**content, "seconds": seconds}, indent=1) + "\n")
    durations = ", ".join(f"{stage} {value:.0f} s" for stage, value in seconds.items())
    print(f"\n{sum(seconds.values()):.0f} s in all: {durations}; also in {path}")


def list_evaluations(folder: Path, runs: Sequence[str]) -> list[str]:
    """The command lines that evaluate the best checkpoint of each run on ``val``."""
    return [
        f"evaluate.py checkpoint={RunLayout(folder / run).best_checkpoint} split=val"
        for run in runs
    ]
