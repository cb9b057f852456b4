"""The laboratory's report: a table of verdicts, and a page for each claim."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev

from filmvqa.evaluation.evaluate import evaluate_checkpoint
from filmvqa.evaluation.settings import EvaluateSettings
from filmvqa.studies.claims import Claim, Contrast, find_runs
from filmvqa.studies.judging import Outcome, Setting, group_settings, judge, score_run
from filmvqa.studies.laboratory_figure import draw_courses, draw_settings
from filmvqa.studies.paper_results import ABLATIONS, MAC_BY_FRACTION, TEST_ACCURACY
from filmvqa.studies.sweeps import report_unfinished
from filmvqa.system.files import check_output, is_up_to_date, write_file
from filmvqa.system.layout import EvaluationLayout, RunLayout
from filmvqa.system.locks import folder_lock
from filmvqa.system.side_output import going_on_without
from filmvqa.system.tables import csv_table, markdown_table
from filmvqa.worlds.engine.programs import QUESTION_TYPES


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
    scored = []
    all_runs = find_runs(claim, runs)
    unfinished = {run.folder for run in report_unfinished(all_runs)}
    for run in (run for run in all_runs if run.folder not in unfinished):
        layout = RunLayout(run.folder)
        predictions = EvaluationLayout(layout.evaluation, split).predictions
        if not is_up_to_date(predictions, layout.best_checkpoint):
            evaluate_checkpoint(
                EvaluateSettings(checkpoint=str(layout.best_checkpoint), split=split)
            )
        scored.append(score_run(run, split))
    settings = group_settings(claim, scored)
    report = ClaimReport(claim, settings, judge(claim, settings, margin))
    with folder_lock(output, claim.name):
        write_file(output / f"{claim.name}.md", format_page(report, split))
        write_file(output / f"{claim.name}.csv", format_claim_csv(report))
        if settings:
            for name, draw in {
                claim.name: draw_settings,
                f"{claim.name}_courses": draw_courses,
            }.items():
                with going_on_without(f"{output}/{name}.png"):
                    draw(claim, settings, output / f"{name}.png")
    return report


def format_page(report: ClaimReport, split: str) -> str:
    """A claim's page in Markdown."""
    claim = report.claim
    lines = [f"# {claim.title}", f"*Claim: {claim.claim}* ({claim.source})"]
    lines.append(f"```bash\npython scripts/laboratory.py claims=[{claim.called}]\n```")
    if not report.settings:
        return "\n\n".join([*lines, "Nothing was trained yet.\n"])
    lines += [tabulate_settings(report, split), tabulate_outcomes(claim, report.outcomes)]
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


def tabulate_settings(report: ClaimReport, split: str) -> str:
    """A row for each setting: scores in percent, means over seeds, and of the split the
    standard deviation over seeds. All but the first are at the evaluation with the best validation
    score. The paper's, on CLEVR, are in a column, and with question types in a row below."""
    claim = report.claim
    types = [name for name in QUESTION_TYPES if claim.by_type]
    names = [key.name for key in claim.keys]
    rows = []
    for setting in report.settings:
        test, runs = mean(setting.tests), [scored.run for scored in setting.runs]
        spread = f" ± {100 * stdev(setting.tests):.1f}" if len(runs) > 1 else ""
        published = _find_published(claim, setting)
        row = [key.format_value(setting.values[key.key]) for key in claim.keys]
        row += [str(len(runs)), _percent(setting.at_the_end), _percent(setting.train)]
        row += [_percent(*(run.val for run in runs)), f"{_percent(test)}{spread}"]
        row.append(f"{100 * (setting.train - test):+.1f}")
        if claim.paper:
            row.append(f"{published[0]:.1f}" if published else "")
        blank = [""] * (len(row) - len(names))
        row += [_percent(*(r.by_type[name] for r in runs if name in r.by_type)) for name in types]
        rows.append(row)
        if types and len(published) > 1:
            values = [f"{value:.1f}" for value in published[1:]]
            rows.append(["the paper's", *[""] * (len(names) - 1), *blank, *values])
    header = [*names, "seeds", "training, at the end", "training", "validation", split, "gap"]
    header += ["paper, CLEVR"] if claim.paper else []
    return markdown_table([*header, *(f"{name}, validation" for name in types)], rows, len(names))


def _percent(*scores: float) -> str:
    """The mean of scores in percent; nothing of none."""
    return f"{100 * mean(scores):.1f}" if scores else ""


def _find_published(claim: Claim, setting: Setting) -> tuple[float, ...]:
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


def tabulate_outcomes(claim: Claim, outcomes: Sequence[Outcome]) -> str:
    """A row for each contrast: the difference in points, its interval, and what that says."""
    rows = []
    for contrast in claim.contrasts:
        claimed = "" if contrast.claimed is None else f"{contrast.claimed:+g}"
        rows.append([contrast.text, claimed, *_find_outcome(contrast, outcomes)])
    return markdown_table(["difference", "claimed", "measured, 95% interval", "verdict"], rows, 1)


def _find_outcome(contrast: Contrast, outcomes: Sequence[Outcome]) -> tuple[str, str]:
    """The difference of a contrast with its interval in points, and the verdict."""
    for outcome in outcomes:
        if outcome.contrast is contrast:
            seeds = "" if len(outcome.seeds) > 1 else ", one seed"
            return outcome.difference.format_points(seeds), outcome.verdict
    return "", "not run yet"


def tabulate_verdicts(reports: Sequence[ClaimReport]) -> str:
    """The first table of the laboratory: a row for each part of each claim."""
    rows = []
    for report in reports:
        claim, ran = report.claim, f"{report.num_runs} runs, {report.hours:.1f} h"
        for part, contrast in claim.deciding.items():
            difference, verdict = _find_outcome(contrast, report.outcomes)
            measured = f"{contrast.text}: {difference}" if difference else ""
            rows.append([part, claim.source, ran, measured, f"**{verdict}**"])
    header = ["claim", "source", "what was run", "difference in points, 95% interval", "verdict"]
    return markdown_table(header, rows, len(header))


def format_claim_csv(report: ClaimReport) -> str:
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
