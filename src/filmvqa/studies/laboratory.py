"""The laboratory's report of a claim: its page, and the rows of its verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import astuple, dataclass, replace
from pathlib import Path
from statistics import mean, stdev

from filmvqa.evaluation.evaluate import NetworkChange, evaluate_checkpoint
from filmvqa.evaluation.settings import EvaluateSettings
from filmvqa.settings.typed import settings_from
from filmvqa.studies.claims import Claim, Contrast, find_runs
from filmvqa.studies.inspection.interventions import build_network_change
from filmvqa.studies.inspection.settings import FilmSettings
from filmvqa.studies.judging import Outcome, Setting, group_settings, judge, label_setting
from filmvqa.studies.laboratory_figure import draw_courses, draw_settings
from filmvqa.studies.paper_results import ABLATIONS, MAC_BY_FRACTION, TEST_ACCURACY
from filmvqa.studies.raw_results import ScoredRun, keep_runs, read_kept_runs, score_run
from filmvqa.studies.sweeps import report_unfinished
from filmvqa.studies.verdicts import VerdictRow
from filmvqa.system.files import check_output, is_up_to_date, read_bytes, write_file
from filmvqa.system.layout import EvaluationLayout, RunLayout
from filmvqa.system.locks import folder_lock
from filmvqa.system.side_output import going_on_without
from filmvqa.system.tables import markdown_table
from filmvqa.worlds.engine.programs import QUESTION_TYPES


@dataclass(frozen=True)
class ClaimReport:
    """The verdicts on a claim, and the runs behind them."""

    claim: Claim
    settings: list[Setting]
    outcomes: list[Outcome]

    @property
    def hours(self) -> float:
        """Hours of training of all runs."""
        return sum(run.run.course[-1].seconds for run in self.runs) / 3600

    @property
    def runs(self) -> list[ScoredRun]:
        """Each run once, however often it was evaluated."""
        by_name = {run.name: run for setting in self.settings for run in setting.runs}
        return list(by_name.values())


#: Everything below this line of a page was written by hand, and is kept.
BY_HAND = "<!-- Below: by hand. -->\n"


def report_claim(
    claim: Claim, runs: Path, results: Path, output: Path, split: str, margin: float,
    redraw: bool = False,
    change_of: Callable[[FilmSettings], NetworkChange | None] = build_network_change,
) -> ClaimReport:  # fmt: skip
    """Evaluate a claim's finished runs on a split, save their raw results, and write its page.

    Up-to-date evaluations are not repeated. The files are ``<claim>.csv`` in the folder of raw
    results, and ``<claim>.md``, ``.png`` (test score) and ``_courses.png`` (score during
    training). Nothing in the report was chosen on the split: a run's checkpoint is the best on
    validation.

    Parameters
    ----------
    runs
        The folder that contains the sweeps' folders.
    results
        The folder of raw results. The runs in it are reported too.
    margin
        As for ``judge``.
    redraw
        Report only the runs in the raw results.
    change_of
        Makes the changes of the claim's ``film``.
    """
    page = output / f"{claim.name}.md"
    check_output(page)
    scored = read_kept_runs(results, claim, split)
    if not redraw:
        scored += _score_finished(claim, runs, split, change_of)
    scored = list({(run.name, run.change): run for run in scored}.values())  # the last of each
    settings = group_settings(claim, scored)
    report = ClaimReport(claim, settings, judge(claim, settings, margin))
    with folder_lock(results, claim.name):
        keep_runs(results, claim, scored)
    with folder_lock(output, claim.name):
        remedy = "move it away, or make it readable"
        text = read_bytes(page, remedy).decode(errors="replace") if page.exists() else ""
        _, mark, by_hand = text.partition(BY_HAND)
        write_file(page, format_page(report, split) + (f"\n{mark}{by_hand}" if mark else ""))
        for suffix, draw in (("", draw_settings), ("_courses", draw_courses)):
            target = output / f"{claim.name}{suffix}.png"
            with going_on_without(str(target)):
                if settings:
                    draw(claim, settings, target)
    return report


def _score_finished(
    claim: Claim, runs: Path, split: str, change_of: Callable[[FilmSettings], NetworkChange | None]
) -> list[ScoredRun]:
    """Evaluate and score a claim's finished runs with each of the claim's changes of γ and β."""
    all_runs = find_runs(claim, runs)
    unfinished = {run.folder for run in report_unfinished(all_runs)}
    scored = []
    for run in all_runs:
        if run.folder in unfinished:
            continue
        layout = RunLayout(run.folder)
        for film in claim.film or [{}]:
            change = change_of(settings_from(film, FilmSettings))
            name = "" if change is None else change.name
            predictions = EvaluationLayout(layout.evaluation / name, split).predictions
            if not is_up_to_date(predictions, layout.best_checkpoint):
                evaluate_checkpoint(
                    EvaluateSettings(checkpoint=str(layout.best_checkpoint), split=split), change
                )
            config = run.config | {f"film.{key}": value for key, value in film.items()}
            scored.append(score_run(replace(run, config=config), split, runs, name))
    return scored


def format_page(report: ClaimReport, split: str) -> str:
    """Format a claim's page as Markdown."""
    claim = report.claim
    parts = [
        f"# {claim.title}",
        f"*Claim: {claim.claim}* ({claim.source})",
        f"```bash\npython scripts/laboratory.py claims=[{claim.called}]\n```",
    ]
    if not report.settings:
        return "\n\n".join([*parts, "Nothing was trained yet.\n"])
    score = report.settings[0].score
    title = f"{score[0].upper()}{score[1:]}"
    parts += [
        tabulate_settings(report, split),
        tabulate_outcomes(claim, report.outcomes),
        f"{len(report.runs)} of {claim.runs} runs, {report.hours:.1f} hours of training. Scores "
        f"are the {score} in percent; all but those at the end are of each run's best checkpoint "
        "on validation; the gap is training's less the test's.",
        tell_origins(report),
        claim.note or "",
        f"![{title} by setting]({claim.name}.png)",
        f"![{title} while training]({claim.name}_courses.png)",
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n"


def tell_origins(report: ClaimReport) -> str:
    """List the commits and machines of the runs in Markdown, a line for each pair."""
    groups: dict[tuple[str, str], list[ScoredRun]] = {}
    for run in report.runs:
        groups.setdefault((run.commit, run.machine), []).append(run)
    count = len({machine for _, machine in groups})
    lines = [f"**Runs of {count} machines are on this page.**\n"] if count > 1 else []
    keys = [key.key for key in report.claim.keys]
    for (commit, machine), runs in groups.items():
        rows = [
            f"{label_setting(report.claim, setting, keys) or '–'} ({', '.join(seeds)})"
            for setting in report.settings
            if (seeds := [str(run.seed) for run in setting.runs if run in runs])
        ]
        which = "all rows" if len(groups) == 1 else f"rows (seeds): {'; '.join(rows)}"
        hours = sum(run.run.course[-1].seconds for run in runs) / 3600
        kept = sum(run.is_kept for run in runs)
        lines.append(
            f"- {len(runs)} runs, {hours:.1f} h, of commit {commit or 'unknown'} on "
            f"{machine or 'an unknown machine'}, {kept} read from the raw results: {which}"
        )
    return "\n".join(lines)


def tabulate_settings(report: ClaimReport, split: str) -> str:
    """Format a row for each setting: scores in percent, as means over seeds.

    The score on the split has its standard deviation over seeds. All scores but the first are at
    the evaluation with the best validation score. The paper's results on CLEVR have a column;
    those by question type have a row below.
    """
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
    """The mean of scores in percent; empty if there are none."""
    return f"{100 * mean(scores):.1f}" if scores else ""


def _find_published(claim: Claim, setting: Setting) -> tuple[float, ...]:
    """A setting's published accuracies in percent: overall, and for models by question type; empty
    if there are none."""
    if claim.paper == "models":
        return TEST_ACCURACY.get(str(setting.values["model"]), ())
    if claim.paper == "ablations" and (name := setting.values["ablation"]) in ABLATIONS:
        return (ABLATIONS[name],)
    if claim.paper == "data_efficiency" and setting.values["model"] == "mac":
        fraction = float(setting.values["data.fraction"])
        return (MAC_BY_FRACTION[fraction],) if fraction in MAC_BY_FRACTION else ()
    return ()


def tabulate_outcomes(claim: Claim, outcomes: Sequence[Outcome]) -> str:
    """Format a row for each contrast: the difference in points, its interval, and the verdict."""
    rows = []
    for contrast in claim.contrasts:
        claimed = "" if contrast.claimed is None else f"{contrast.claimed:+g}"
        rows.append([contrast.text, claimed, *_find_outcome(contrast, outcomes)])
    return markdown_table(["difference", "claimed", "measured, 95% interval", "verdict"], rows, 1)


def _find_outcome(contrast: Contrast, outcomes: Sequence[Outcome]) -> tuple[str, str]:
    """A contrast's difference with its interval in points, and the verdict."""
    for outcome in outcomes:
        if outcome.contrast is contrast:
            seeds = "" if len(outcome.seeds) > 1 else ", one seed"
            return outcome.difference.format_points(seeds), outcome.verdict
    return "", "not run yet"


def list_verdicts(report: ClaimReport) -> list[VerdictRow]:
    """Make a row for each part of a claim."""
    claim, rows = report.claim, []
    worlds, commits, machines = (
        sorted({getattr(run, name) for run in report.runs} - {""})
        for name in ("world", "commit", "machine")
    )
    for part, contrast in claim.deciding.items():
        outcome = next((o for o in report.outcomes if o.contrast is contrast), None)
        bounds = astuple(outcome.difference) if outcome else ()
        points = dict(zip(("difference", "low", "high"), bounds, strict=False))
        rows.append(
            VerdictRow(
                page=claim.name, claim=part, source=claim.source, world=", ".join(worlds),
                contrast=contrast.text, expected=contrast.expected, claimed=contrast.claimed,
                verdict=outcome.verdict if outcome else "not run yet",
                seeds=len(outcome.seeds) if outcome else 0, runs=len(report.runs),
                hours=round(report.hours, 2), commits="; ".join(commits),
                machines="; ".join(machines),
                **{name: round(100 * share, 2) for name, share in points.items()},
            )
        )  # fmt: skip
    return rows
