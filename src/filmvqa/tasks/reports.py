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
#: The sections of a report by what questions have in common: which column of ``QuestionGroups``.
GROUPS = {
    "by_family": "families",
    "by_program_length": "program_lengths",
    "by_num_objects": "num_objects",
    "by_group": "groups",
}


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95% interval of a proportion (Wilson 1927), which unlike the normal one is valid at 0 and 1.

    (0, 1) for no observations.
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
    """Sections of a report by their keys (``GROUPS``): the rows of the questions that have each of
    the values that occur; sections whose values are not known are left out.

    ``row`` makes one of whether each question is in it (N,).
    """
    values = {key: getattr(questions, GROUPS[key]) for key in keys}
    sections = {
        key: {str(value): row(of.cpu() == value) for value in sorted(set(of.tolist()))}
        for key, of in values.items()
        if of is not None
    }
    if named := sections.get("by_group"):
        names = {str(i): name for i, name in enumerate(questions.group_names)}
        by_name = {names.get(number, "other"): rows for number, rows in named.items()}
        sections["by_group"] = dict(sorted(by_name.items()))
    return sections


def type_means(scores: Tensor, names: Sequence[str], types: Tensor) -> dict[str, float]:
    """Mean of scores (N,), for answers the share of correct ones, by the name of their type, for
    those whose index occurs in ``types`` (N,)."""
    return {
        name: float(scores[types == i].double().mean())
        for i, name in enumerate(names)
        if (types == i).any()
    }


def section_rows(
    report: Mapping[str, Any], sections: Mapping[str, str], cells: Callable[[Any], list[str]]
) -> list[list[str]]:
    """The overall row of a report as a table has it, and below their titles the rows of sections,
    whose keys ``sections`` has by title."""
    rows = [["overall", *cells(report["overall"])]]
    for title, key in sections.items():
        if section := report.get(key):
            rows.append([f"{title}:"])
            rows += [[f"  {name}", *cells(row)] for name, row in section.items()]
    return rows


def percent(share: float | None, digits: int = 1) -> str:
    """A share as tables have it."""
    return "-" if share is None else f"{100 * share:.{digits}f}%"


def percent_interval(interval: Sequence[float], digits: int = 1) -> str:
    """An interval of shares as tables have it."""
    low, high = (100 * bound for bound in interval)
    return f"{low:.{digits}f} to {high:.{digits}f}"


def num_objects(scenes: Path, images: Tensor) -> Tensor | None:
    """The number of objects (N,) of each image (N,); None without a scene for each."""
    if not scenes.exists():
        return None
    objects = read_scene_objects(scenes)
    counts = [len(objects[i]) if i in objects else None for i in images.tolist()]
    return None if None in counts else torch.tensor(counts)
