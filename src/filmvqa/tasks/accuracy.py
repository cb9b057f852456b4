"""Accuracy by type of question, with Wilson intervals."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from filmvqa.system.errors import UserError
from filmvqa.system.tables import text_table

#: Normal quantile of a two-sided 95% interval.
Z95 = 1.959963984540054


class Answered(Protocol):
    """Questions with their answers and what they are grouped by, (N,) each or None, as in
    ``QuestionDataset``."""

    @property
    def path(self) -> Path: ...
    @property
    def answers(self) -> Tensor | None: ...
    @property
    def types(self) -> Tensor | None: ...
    @property
    def families(self) -> Tensor | None: ...
    @property
    def program_lengths(self) -> Tensor | None: ...
    @property
    def question_types(self) -> Mapping[str, tuple[str, ...]]: ...


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


def question_type_indices(questions: Answered) -> Tensor | None:
    """Index (N,) of each question's type into its file's ``question_types``, -1 for none of them;
    None for a file that does not tell."""
    if questions.types is None:
        return None
    of_functions = [i for i, names in enumerate(questions.question_types.values()) for _ in names]
    by_function = torch.tensor([*of_functions, -1])  # the last entry is that of index -1
    return by_function[questions.types]


def type_means(scores: Tensor, names: Sequence[str], types: Tensor) -> dict[str, float]:
    """Mean of scores (N,), for answers the share of correct ones, by the name of their type, for
    those whose index occurs in ``types`` (N,)."""
    return {
        name: float(scores[types == i].double().mean())
        for i, name in enumerate(names)
        if (types == i).any()
    }


def _row(correct: Tensor, members: Tensor) -> dict[str, Any]:
    num_questions, num_correct = int(members.sum()), int((correct & members).sum())
    return {
        "accuracy": num_correct / num_questions if num_questions else None,
        "correct": num_correct,
        "questions": num_questions,
        "interval": list(wilson_interval(num_correct, num_questions)),
    }


def accuracy_report(
    predictions: Tensor, questions: Answered, num_objects: Tensor | None = None
) -> dict[str, Any]:
    """Rows (accuracy, correct, questions, 95% interval) overall and by group of questions.

    ``by_type`` has the question types (CLEVR's five), and ``other`` if there are questions of none
    of them, ``by_function`` the functions that answer (CLEVR's thirteen), ``by_family``,
    ``by_program_length`` and ``by_num_objects`` those that occur; groups that are not known are
    left out.

    Parameters
    ----------
    predictions
        Predicted answers (N,) in the order of the file.
    num_objects
        Number of objects (N,) of each question's image; None: unknown.

    Raises
    ------
    UserError
        If the questions have no answers.
    """
    if questions.answers is None:
        raise UserError(f"{questions.path}: has no answers to compare with")
    correct = predictions.cpu() == questions.answers.cpu()
    report: dict[str, Any] = {"overall": _row(correct, torch.ones_like(correct))}
    type_indices = question_type_indices(questions)
    if questions.types is not None and type_indices is not None:
        report["by_type"] = {
            name: _row(correct, type_indices == i)
            for i, name in enumerate(questions.question_types)
        }
        if (type_indices == -1).any():
            report["by_type"]["other"] = _row(correct, type_indices == -1)
        functions = questions.types.cpu()
        answer_functions = [name for names in questions.question_types.values() for name in names]
        report["by_function"] = {
            name: _row(correct, functions == i) for i, name in enumerate(answer_functions)
        }
    for key, values in (
        ("by_family", questions.families),
        ("by_program_length", questions.program_lengths),
        ("by_num_objects", num_objects),
    ):
        if values is not None:
            present = sorted(set(values.tolist()))
            report[key] = {str(value): _row(correct, values.cpu() == value) for value in present}
    return report


def format_report(
    report: dict[str, Any], *, families: bool = False, lengths: bool = False, objects: bool = False
) -> str:
    """The report as a table to print; families, program lengths and numbers of objects on
    request."""
    sections = {
        "": {"overall": report["overall"]},
        "question type": report.get("by_type", {}),
        "last function": report.get("by_function", {}),
        "family": report.get("by_family", {}) if families else {},
        "program length": report.get("by_program_length", {}) if lengths else {},
        "objects": report.get("by_num_objects", {}) if objects else {},
    }
    rows = [["", "accuracy", "95% interval", "questions"]]
    for title, section in sections.items():
        if title and section:
            rows.append([f"{title}:"])
        for name, row in section.items():
            low, high = (100 * bound for bound in row["interval"])
            label = f"  {name}" if title else name
            share = "-" if row["accuracy"] is None else f"{100 * row['accuracy']:.2f}%"
            rows.append([label, share, f"{low:.2f} to {high:.2f}", f"{row['questions']:,}"])
    return text_table(rows)


def format_comparison(
    reports: dict[str, dict[str, Any]], published: dict[str, dict[str, float]] | None = None
) -> str:
    """Overall accuracy and that of the question types, one column a report, and one for each of
    ``published``, whose values are percentages by the same names."""
    published = published or {}
    rows = [["", *reports, *published, "questions"]]
    first = next(iter(reports.values()))
    for name in ("overall", *first["by_type"]):
        cells = [
            r["overall"] if name == "overall" else r["by_type"][name] for r in reports.values()
        ]
        shares = ["-" if c["accuracy"] is None else f"{100 * c['accuracy']:.1f}%" for c in cells]
        known = [f"{p[name]:.1f}%" if name in p else "-" for p in published.values()]
        rows.append([name, *shares, *known, f"{cells[0]['questions']:,}"])
    return text_table(rows)
