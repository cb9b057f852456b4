"""The verdicts on all claims: a CSV file, sentences, and a forest plot."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import msgspec

from filmvqa.studies.raw_results import VERDICTS, read_rows
from filmvqa.system.errors import UserError, one_line
from filmvqa.system.figures import add_legend, add_plots, draw_figure
from filmvqa.system.files import write_file
from filmvqa.system.tables import csv_table

#: Colors of verdicts for and against a claim.
_COLORS = {"shows": "C0", "does not show": "C3", "the opposite": "C3"}


class VerdictRow(msgspec.Struct, kw_only=True):
    """The verdict on a part of a claim; differences are in points."""

    page: str
    claim: str
    source: str
    world: str = ""
    contrast: str
    expected: str
    claimed: float | None = None
    difference: float | None = None
    low: float | None = None
    high: float | None = None
    verdict: str
    seeds: int
    runs: int
    hours: float
    commits: str = ""
    machines: str = ""

    @property
    def measured(self) -> str:
        """The difference with its interval; empty without runs."""
        if self.difference is None:
            return ""
        return f"{self.difference:+.1f} ({self.low:+.1f} to {self.high:+.1f})"


def read_verdicts(folder: Path) -> list[VerdictRow]:
    """Read the verdicts of a folder of raw results.

    Raises
    ------
    UserError
        If a row lacks a value or has a wrong one.
    """
    rows = []
    for number, row in enumerate(read_rows(folder / VERDICTS), 2):
        values = {name: value for name, value in row.items() if value}
        try:
            rows.append(msgspec.convert(values, VerdictRow, strict=False))
        except msgspec.ValidationError as error:
            raise UserError(
                f"{folder / VERDICTS}: line {number}: {one_line(error)}; correct it, or take the "
                "file from git again"
            ) from None
    return rows


def keep_verdicts(folder: Path, rows: Sequence[VerdictRow]) -> list[VerdictRow]:
    """Replace the verdicts of these pages in a folder, and return all verdicts.

    A verdict with fewer seeds does not replace an earlier one, whose runs may not be stored.
    """
    pages = {row.page for row in rows}
    earlier = {(row.page, row.claim): row for row in read_verdicts(folder)}
    merged = [row for row in earlier.values() if row.page not in pages]
    for row in rows:
        before = earlier.get((row.page, row.claim), row)
        merged.append(before if before.seeds > row.seeds else row)
    merged.sort(key=lambda row: (row.world, row.page))
    header = VerdictRow.__struct_fields__
    write_file(folder / VERDICTS, csv_table(header, map(msgspec.structs.astuple, merged)))
    return merged


def list_sentences(rows: Sequence[VerdictRow]) -> str:
    """Format a sentence for each verdict as Markdown, by world."""
    lines = []
    for world, members in groupby(rows, lambda row: row.world):
        lines.append(f"\n**{world or 'Not run yet'}**\n")
        for row in members:
            measured = f" {row.contrast}: {row.measured} points" if row.measured else ""
            source = "" if row.claimed is None else f", where the source has {row.claimed:+g}"
            cost = f"{row.seeds} seeds; the page has {row.runs} runs, {row.hours:.1f} h"
            machine = f", on {row.machines}" if row.machines else ""
            lines.append(
                f"- *{row.claim.rstrip('.')}* ({row.source}): **{row.verdict}**.{measured}"
                f"{source if measured else ''} ({cost}{machine})."
            )
    return "\n".join(lines).lstrip("\n") + "\n"


def draw_forest(rows: Sequence[VerdictRow], target: Path) -> None:
    """Write a PNG with a row for each difference with its interval, by world.

    A mark shows what the source claims: its number, or the side of 0 on which it expects the
    difference.
    """
    shown = [row for row in rows if row.difference is not None]
    worlds = [(world, list(members)) for world, members in groupby(shown, lambda row: row.world)]
    height = 1.4 + sum(0.5 + 0.36 * len(members) for _, members in worlds)
    with draw_figure(target, 11, height) as figure:
        ratios = [len(members) + 0.5 for _, members in worlds]
        grid = add_plots(figure, len(worlds), sharex=True, height_ratios=ratios)
        for axes, (world, members) in zip(grid, worlds, strict=True):
            _draw_world(axes, world, members)
        grid[-1].set_xlabel("difference in points, 95% interval")
        add_legend(figure, 3, _legend(grid))


def _draw_world(axes: Any, world: str, rows: Sequence[VerdictRow]) -> None:
    heights = range(len(rows) - 1, -1, -1)  # the first is at the top
    axes.axvline(0, color="0.3", linewidth=1)
    for height, row in zip(heights, rows, strict=True):
        color = _COLORS.get(row.verdict.partition(",")[0], "0.45")
        label = {"C0": "shows", "C3": "does not show, or the opposite"}.get(color, "not settled")
        assert row.difference is not None and row.low is not None and row.high is not None
        bounds = [[row.difference - row.low], [row.high - row.difference]]
        axes.errorbar(row.difference, height, xerr=bounds, fmt="o", color=color, label=label)
        if row.claimed is not None:
            axes.plot(row.claimed, height, "kD", fillstyle="none", label="the source's number")
        else:
            marker = {"more": "k>", "no more": "k<", "same": "k|"}[row.expected]
            name = {"more": "above 0", "no more": "not above 0", "same": "none"}[row.expected]
            axes.plot(0, height, marker, fillstyle="none", label=f"the source: {name}")
        axes.annotate(
            f"{row.measured}  {row.verdict}", (1.01, height), fontsize="small", va="center",
            xycoords=("axes fraction", "data"), annotation_clip=False,
        )  # fmt: skip
    axes.set_yticks(heights, [f"{row.page}: {row.contrast}" for row in rows], fontsize="small")
    axes.set_ylim(-0.6, len(rows) - 0.4)
    axes.set_title(world, loc="left", fontsize="medium", fontweight="bold")


def _legend(grid: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """The handles and labels of all panels without duplicates."""
    entries: dict[str, Any] = {}
    for axes in grid:
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    return list(entries.values()), list(entries)
