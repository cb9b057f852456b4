"""The report of a sweep: tables (Markdown, CSV) and a figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean

from filmvqa.studies.paper_results import ABLATIONS, COLUMNS, TEST_ACCURACY
from filmvqa.studies.sweep_figure import draw_sweep
from filmvqa.studies.sweeps import Sweep, SweepRun, read_runs, report_unfinished, summarize
from filmvqa.system.files import check_output, write_file
from filmvqa.system.locks import folder_lock
from filmvqa.system.side_output import going_on_without
from filmvqa.system.tables import csv_table, markdown_table


def tabulate_sweep(sweep: Sweep, reach: Sequence[float] = ()) -> str:
    """Format the sweep as Markdown tables, accuracies in percent.

    Each accuracy in ``reach`` has a column: thousands of questions and seconds of training until
    the first evaluation with this validation accuracy, as means over the runs that reached it, and
    the number of these runs unless all did. Sweeps over ablations and models show the paper's
    results beside ours.
    """
    header = [*sweep.keys, "runs", "training", "validation", "gap"]
    is_ablation = sweep.key == "ablation"
    header += ["paper, on CLEVR", "ours - none", "paper's - none"] if is_ablation else []
    header += [f"to {100 * accuracy:g}%" for accuracy in reach]
    full_model = next((p.val for p in sweep.points if p.value == "none"), None)
    rows = []
    for p in sweep.points:
        spread = "" if p.val_spread is None else f" ± {100 * p.val_spread:.2f}"
        row = [p.label] if p.series is None else [p.series, p.label]
        row += [str(len(p.runs)), f"{100 * p.train:.2f}", f"{100 * p.val:.2f}{spread}"]
        row.append(f"{100 * p.gap:+.2f}")
        if is_ablation:
            published = ABLATIONS.get(str(p.value))
            row.append("" if published is None else f"{published:.1f}")
            row.append("" if full_model is None else f"{100 * (p.val - full_model):+.1f}")
            row.append("" if published is None else f"{published - ABLATIONS['none']:+.1f}")
        row += [_format_time_to_reach(p.runs, accuracy) for accuracy in reach]
        rows.append(row)
    table = markdown_table(header, rows, len(sweep.keys))
    return table + ("\n" + _tabulate_models_by_type(sweep) if sweep.key == "model" else "")


def _format_time_to_reach(runs: Sequence[SweepRun], accuracy: float) -> str:
    marks = [mark for run in runs if (mark := run.find_first_reaching(accuracy)) is not None]
    if not marks:
        return ""
    questions, seconds = map(mean, zip(*marks, strict=True))
    note = "" if len(marks) == len(runs) else f" ({len(marks)} of {len(runs)})"
    return f"{questions / 1000:.0f}, {seconds:.0f} s{note}"


def _tabulate_models_by_type(sweep: Sweep) -> str:
    """Tabulate validation accuracy by question type, with the paper's test accuracy below."""
    rows = []
    points = {str(p.value): p for p in sweep.points}
    for name in dict.fromkeys([*TEST_ACCURACY, *points]):
        if name in points:
            accuracies = {"overall": points[name].val, **points[name].by_type}
            cells = [f"{100 * accuracies[c]:.1f}" if c in accuracies else "" for c in COLUMNS]
            rows.append([name, "ours", *cells])
        if name in TEST_ACCURACY:
            rows.append([name, "paper, on CLEVR", *(f"{v:.1f}" for v in TEST_ACCURACY[name])])
    return markdown_table(["model", "", *COLUMNS], rows, 2)


def format_sweep_csv(sweep: Sweep) -> str:
    """Format the sweep as CSV, accuracies as fractions."""
    question_types = list(dict.fromkeys(name for p in sweep.points for name in p.by_type))
    columns = ["runs", "train_accuracy", "val_accuracy", "val_spread", "gap", *question_types]
    rows = []
    for p in sweep.points:
        values = [p.value] if sweep.series_key is None else [p.series, p.value]
        accuracies = [p.train, p.val, p.val_spread, p.gap, *map(p.by_type.get, question_types)]
        numbers = [None if number is None else f"{number:.6f}" for number in accuracies]
        rows.append([*values, len(p.runs), *numbers])
    return csv_table([*sweep.keys, *columns], rows)


def report_sweep(
    folder: str | Path,
    key: str | None = None,
    series_key: str | None = None,
    reach: Sequence[float] = (),
) -> str:
    """Write ``report.md``, ``report.csv`` and ``report.png`` into a sweep's folder.

    The parameters are those of ``summarize`` and ``tabulate_sweep``; the result is the Markdown.
    """
    folder = Path(folder)
    check_output(folder / "report.md")
    runs = read_runs(folder)
    report_unfinished(runs)  # they are in the tables too: a sweep can be reported while it runs
    sweep = summarize(runs, key, series_key)
    tables = tabulate_sweep(sweep, reach)
    with folder_lock(folder, "report"):
        write_file(folder / "report.md", tables)
        write_file(folder / "report.csv", format_sweep_csv(sweep))
        with going_on_without(f"{folder}/report.png"):
            draw_sweep(sweep, folder / "report.png")
    return tables
