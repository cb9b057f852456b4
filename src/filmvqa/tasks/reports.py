"""Rows and tables of reports: scores by group of questions, with 95% intervals."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from filmvqa.questions.dataset import QuestionGroups
from filmvqa.worlds.engine.schema import read_scene_objects

#: Normal quantile of a two-sided 95% interval.
Z95 = 1.959963984540054
#: Sections of a report by group of questions, and their columns in ``QuestionGroups``.
GROUPS = {
    "by_family": "families",
    "by_program_length": "program_lengths",
    "by_num_objects": "num_objects",
    "by_group": "groups",
}


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95% interval of a proportion (Wilson 1927); (0, 1) for no observations.

    Unlike the normal interval it is valid at proportions of 0 and 1.
    """
    if total == 0:
        return 0.0, 1.0
    p, z2 = correct / total, Z95 * Z95
    centre = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 / (1 + z2 / total) * math.sqrt(p * (1 - p) / total + z2 / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def rows_by_group(
    row: Callable[[Tensor], dict[str, Any]], questions: QuestionGroups,
    keys: Collection[str] = tuple(GROUPS),
) -> dict[str, dict[str, Any]]:  # fmt: skip
    """Sections of a report by key of ``GROUPS``, with a row for each value of the section's column.

    Sections whose columns are not known are left out. ``row`` makes a row for the questions in a
    boolean mask (N,).
    """
    columns = {key: getattr(questions, GROUPS[key]) for key in keys}
    sections = {
        key: {str(value): row(column.cpu() == value) for value in sorted(set(column.tolist()))}
        for key, column in columns.items()
        if column is not None
    }
    if groups := sections.get("by_group"):
        names = {str(i): name for i, name in enumerate(questions.group_names)}
        by_name = {names.get(number, "other"): rows for number, rows in groups.items()}
        sections["by_group"] = dict(sorted(by_name.items()))
    return sections


def type_means(scores: Tensor, names: Sequence[str], types: Tensor) -> dict[str, float]:
    """Mean of scores (N,) by type name, for the types whose index occurs in ``types`` (N,)."""
    return {
        name: float(scores[types == i].double().mean())
        for i, name in enumerate(names)
        if (types == i).any()
    }


def section_rows(
    report: Mapping[str, Any], sections: Mapping[str, str], cells: Callable[[Any], list[str]]
) -> list[list[str]]:
    """The rows of a report's table: the overall row, then the rows of each section below its title.

    ``sections`` maps titles to keys of the report.
    """
    rows = [["overall", *cells(report["overall"])]]
    for title, key in sections.items():
        if section := report.get(key):
            rows.append([f"{title}:"])
            rows += [[f"  {name}", *cells(row)] for name, row in section.items()]
    return rows


def percent(share: float | None, digits: int = 1) -> str:
    """A share as a percentage; ``-`` for None."""
    return "-" if share is None else f"{100 * share:.{digits}f}%"


def percent_interval(interval: Sequence[float], digits: int = 1) -> str:
    """An interval of shares in percent."""
    low, high = (100 * bound for bound in interval)
    return f"{low:.{digits}f} to {high:.{digits}f}"


def num_objects(scenes: Path, images: Tensor) -> Tensor | None:
    """The number of objects (N,) of each image (N,); None if an image has no scene."""
    if not scenes.exists():
        return None
    objects = read_scene_objects(scenes)
    counts = [len(objects[i]) if i in objects else None for i in images.tolist()]
    return None if None in counts else torch.tensor(counts)
