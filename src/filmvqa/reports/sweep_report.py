"""A sweep as tables (Markdown, CSV) and a figure of training and validation accuracy."""

from __future__ import annotations

import csv
import io
from pathlib import Path

from filmvqa.files import write_file
from filmvqa.locks import folder_lock
from filmvqa.reports.paper_results import ABLATIONS, COLUMNS, TEST_ACCURACY
from filmvqa.reports.sweep_figure import draw_sweep
from filmvqa.reports.sweeps import Sweep, read_runs, summarize
from filmvqa.tables import markdown_table


def markdown_tables(sweep: Sweep) -> str:
    """The sweep as Markdown, accuracies in percent; for ablations and models with the paper's
    figures beside ours."""
    first = [sweep.key] if sweep.series_key is None else [sweep.series_key, sweep.key]
    published = sweep.key == "ablation"
    heads = [*first, "runs", "training", "validation", "gap"]
    heads += ["paper, on CLEVR", "ours - none", "paper's - none"] if published else []
    base = next((p.val for p in sweep.points if p.value == "none"), None)
    rows = []
    for p in sweep.points:
        spread = "" if p.val_spread is None else f" ± {100 * p.val_spread:.2f}"
        row = [p.label] if p.series is None else [p.series, p.label]
        row += [str(p.runs), f"{100 * p.train:.2f}", f"{100 * p.val:.2f}{spread}"]
        row.append(f"{100 * p.gap:+.2f}")
        if published:
            theirs = ABLATIONS.get(str(p.value))
            row.append("" if theirs is None else f"{theirs:.1f}")
            row.append("" if base is None else f"{100 * (p.val - base):+.1f}")
            row.append("" if theirs is None else f"{theirs - ABLATIONS['none']:+.1f}")
        rows.append(row)
    text = markdown_table(heads, rows, len(first))
    return text + ("\n" + _comparison(sweep) if sweep.key == "model" else "")


def _comparison(sweep: Sweep) -> str:
    """Validation accuracy by question type, the paper's test figures on CLEVR under each row."""
    rows = []
    ours = {str(p.value): p for p in sweep.points}
    for name in dict.fromkeys([*TEST_ACCURACY, *ours]):
        if name in ours:
            shares = {"overall": ours[name].val, **ours[name].by_type}
            cells = [f"{100 * shares[c]:.1f}" if c in shares else "" for c in COLUMNS]
            rows.append([name, "ours", *cells])
        if name in TEST_ACCURACY:
            rows.append([name, "paper, on CLEVR", *(f"{v:.1f}" for v in TEST_ACCURACY[name])])
    return markdown_table(["model", "", *COLUMNS], rows, 2)


def csv_table(sweep: Sweep) -> str:
    """The points as CSV, accuracies as shares."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    kinds = list(dict.fromkeys(k for p in sweep.points for k in p.by_type))
    series = [] if sweep.series_key is None else [sweep.series_key]
    heads = ["runs", "train_accuracy", "val_accuracy", "val_spread", "gap", *kinds]
    writer.writerow([*series, sweep.key, *heads])
    for p in sweep.points:
        spread = "" if p.val_spread is None else f"{p.val_spread:.6f}"
        accuracies = (f"{p.train:.6f}", f"{p.val:.6f}", spread, f"{p.gap:.6f}")
        types = (f"{p.by_type[k]:.6f}" if k in p.by_type else "" for k in kinds)
        writer.writerow([*([p.series] if series else []), p.value, p.runs, *accuracies, *types])
    return out.getvalue()


def report_sweep(folder: str | Path, key: str | None = None, series_key: str | None = None) -> str:
    """Write ``report.md``, ``report.csv`` and ``report.png`` into a sweep's folder; the tables."""
    folder = Path(folder)
    sweep = summarize(read_runs(folder), key, series_key)
    tables = markdown_tables(sweep)
    with folder_lock(folder, "report"):
        write_file(folder / "report.md", tables)
        write_file(folder / "report.csv", csv_table(sweep))
        draw_sweep(sweep, folder / "report.png")
    return tables
