"""The laboratory's report: a table of verdicts, and a page for each claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from filmvqa.evaluation.evaluate import evaluate_checkpoint
from filmvqa.studies.claims import (
    Claim,
    Contrast,
    Outcome,
    Setting,
    judge,
    runs_of,
    score_run,
    settings_of,
)
from filmvqa.studies.laboratory_figure import draw_courses, draw_settings
from filmvqa.studies.paper_results import ABLATIONS, MAC_BY_FRACTION, TEST_ACCURACY
from filmvqa.studies.sweeps import unfinished
from filmvqa.system.files import check_output, is_up_to_date, write_file
from filmvqa.system.layout import EvaluationLayout, RunLayout
from filmvqa.system.locks import folder_lock
from filmvqa.system.tables import csv_table, markdown_table
from filmvqa.worlds.engine.programs import QUESTION_TYPES

_NOT_RUN = "not run yet"


@dataclass(frozen=True)
class ClaimReport:
    """What the runs say about a claim."""

    claim: Claim
    settings: list[Setting]
    outcomes: list[Outcome]

    @property
    def hours(self) -> float:
        """Hours of training of all runs together."""
        runs = [run for setting in self.settings for run in setting.runs]
        return sum(run.run.course[-1].seconds for run in runs) / 3600

    @property
    def num_runs(self) -> int:
        return sum(len(setting.runs) for setting in self.settings)


def report_claim(claim: Claim, runs: Path, output: Path, split: str, margin: float) -> ClaimReport:
    """Evaluate a claim's finished runs on a split where that is not done yet, and write its page.

    The files are ``<claim>.md``, ``.csv``, ``.png`` (test score) and ``_courses.png`` (score
    while training). Nothing that is reported was chosen on the split: the checkpoint of a run is
    the best on validation.

    Parameters
    ----------
    runs
        The folder of the sweeps' folders.
    margin
        As for ``judge``.
    """
    check_output(output / f"{claim.name}.md")
    scored, found = [], runs_of(claim, runs)
    left_out = {run.folder for run in unfinished(found)}
    for run in (run for run in found if run.folder not in left_out):
        layout = RunLayout(run.folder)
        predictions = EvaluationLayout(layout.evaluation, split).predictions
        if not is_up_to_date(predictions, layout.best_checkpoint):
            evaluate_checkpoint(layout.best_checkpoint, split)
        scored.append(score_run(run, split))
    settings = settings_of(claim, scored)
    report = ClaimReport(claim, settings, judge(claim, settings, margin))
    with folder_lock(output, claim.name):
        write_file(output / f"{claim.name}.md", page(report, split))
        write_file(output / f"{claim.name}.csv", claim_csv(report))
        if settings:
            draw_settings(claim, settings, output / f"{claim.name}.png")
            draw_courses(claim, settings, output / f"{claim.name}_courses.png")
    return report


def page(report: ClaimReport, split: str) -> str:
    """A claim's page in Markdown."""
    claim = report.claim
    lines = [f"# {claim.title}", f"*Claim: {claim.claim}* ({claim.source})"]
    lines.append(f"```bash\npython scripts/laboratory.py claims=[{claim.called}]\n```")
    if not report.settings:
        return "\n\n".join([*lines, "Nothing was trained yet.\n"])
    lines += [settings_table(report, split), outcomes_table(claim, report.outcomes)]
    score = report.settings[0].score
    lines.append(
        f"{report.num_runs} of {claim.runs} runs, {report.hours:.1f} hours of training with one "
        f"thread each. Scores are the {score} in percent; all but those at the end are of each "
        "run's best checkpoint on validation; the gap is training's less the test's."
    )
    lines += [claim.note] if claim.note else []
    lines += [
        f"![{score[0].upper()}{score[1:]} by setting]({claim.name}.png)",
        f"![{score[0].upper()}{score[1:]} while training]({claim.name}_courses.png)",
    ]
    return "\n\n".join(line.rstrip("\n") for line in lines) + "\n"


def settings_table(report: ClaimReport, split: str) -> str:
    """A row for each setting: scores in percent, means over seeds, and of the split the
    standard deviation over seeds. All but the first are at the evaluation with the best validation
    score. The paper's, on CLEVR, are in a column, and with question types in a row below."""
    claim = report.claim
    types = [name for name in QUESTION_TYPES if claim.by_type]
    names = [key.name for key in claim.keys]
    rows = []
    for setting in report.settings:
        test, train = mean(setting.tests), mean(r.run.train for r in setting.runs)
        spread = f" ± {100 * stdev(setting.tests):.1f}" if len(setting.runs) > 1 else ""
        by_type = [
            [r.run.by_type[name] for r in setting.runs if name in r.run.by_type] for name in types
        ]
        published = _published(claim, setting)
        rows.append(
            [
                *(key.shown(setting.values[key.key]) for key in claim.keys),
                str(len(setting.runs)),
                f"{100 * setting.at_the_end:.1f}",
                f"{100 * train:.1f}",
                f"{100 * mean(r.run.val for r in setting.runs):.1f}",
                f"{100 * test:.1f}{spread}",
                f"{100 * (train - test):+.1f}",
                *([f"{published[0]:.1f}" if published else ""] if claim.paper else []),
                *(f"{100 * mean(values):.1f}" if values else "" for values in by_type),
            ]
        )
        if types and len(published) > 1:
            blank = [""] * (len(rows[-1]) - len(names) - len(types))
            values = [f"{value:.1f}" for value in published[1:]]
            rows.append(["the paper's", *[""] * (len(names) - 1), *blank, *values])
    header = [*names, "seeds", "training, at the end", "training", "validation", split, "gap"]
    header += ["paper, CLEVR"] if claim.paper else []
    return markdown_table([*header, *(f"{name}, validation" for name in types)], rows, len(names))


def _published(claim: Claim, setting: Setting) -> tuple[float, ...]:
    """The published accuracies of a setting in percent, overall and (of models) by question type;
    none if there are none."""
    if claim.paper == "models":
        return TEST_ACCURACY.get(str(setting.values["model"]), ())
    if claim.paper == "ablations" and (name := setting.values["ablation"]) in ABLATIONS:
        return (ABLATIONS[name],)
    if claim.paper == "data_efficiency" and setting.values["model"] == "mac":
        fraction = float(setting.values["data.fraction"])
        return (MAC_BY_FRACTION[fraction],) if fraction in MAC_BY_FRACTION else ()
    return ()


def outcomes_table(claim: Claim, outcomes: Sequence[Outcome]) -> str:
    """A row for each contrast: the difference in points, its interval, and what that says."""
    rows = []
    for contrast in claim.contrasts:
        outcome = _outcome_of(contrast, outcomes)
        rows.append(
            [
                contrast.text,
                "" if contrast.claimed is None else f"{contrast.claimed:+g}",
                interval(outcome) if outcome else "",
                outcome.verdict if outcome else _NOT_RUN,
            ]
        )
    return markdown_table(["difference", "claimed", "measured, 95% interval", "verdict"], rows, 1)


def _outcome_of(contrast: Contrast, outcomes: Sequence[Outcome]) -> Outcome | None:
    return next((outcome for outcome in outcomes if outcome.contrast is contrast), None)


def interval(outcome: Outcome) -> str:
    """A difference with its interval, in points."""
    d = outcome.difference
    seeds = "" if len(outcome.seeds) > 1 else ", one seed"
    return f"{100 * d.mean:+.1f} ({100 * d.low:+.1f} to {100 * d.high:+.1f}{seeds})"


def verdicts_table(reports: Sequence[ClaimReport]) -> str:
    """The first table of the laboratory: a row for each part of each claim."""
    rows = []
    for report in reports:
        claim, ran = report.claim, f"{report.num_runs} runs, {report.hours:.1f} h"
        for part, contrast in claim.deciding.items():
            outcome = _outcome_of(contrast, report.outcomes)
            measured = f"{contrast.text}: {interval(outcome)}" if outcome else ""
            verdict = outcome.verdict if outcome else _NOT_RUN
            rows.append([part, claim.source, ran, measured, f"**{verdict}**"])
    header = ["claim", "source", "what was run", "difference in points, 95% interval", "verdict"]
    return markdown_table(header, rows, len(header))


def claim_csv(report: ClaimReport) -> str:
    """A row for each run: scores as fractions, at the evaluation with the best validation."""
    keys = [key.key for key in report.claim.keys]
    header = [*keys, "seed", "step", "seconds", "train", "val", "test"]
    rows = []
    for setting in report.settings:
        for run in setting.runs:
            accuracies = (f"{value:.6f}" for value in (run.run.train, run.run.val, run.test))
            seconds = f"{run.run.course[-1].seconds:.0f}"
            rows.append([*setting.values.values(), run.seed, run.run.step, seconds, *accuracies])
    return csv_table(header, rows)
