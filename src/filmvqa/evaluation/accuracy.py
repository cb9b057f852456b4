"""Accuracy by type of question, with Wilson intervals."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from filmvqa.clevr.programs import ANSWER_FUNCTIONS, QUESTION_TYPES, question_type
from filmvqa.data.loader import QuestionSet
from filmvqa.errors import UserError

#: Normal quantile of a two-sided 95% interval.
Z95 = 1.959963984540054


def wilson_interval(correct: int, total: int) -> tuple[float, float]:
    """95% interval of a proportion (Wilson 1927): unlike the normal one, right at 0 and 1.

    (0, 1) for no observations.
    """
    if total == 0:
        return 0.0, 1.0
    p, z2 = correct / total, Z95 * Z95
    centre = (p + z2 / (2 * total)) / (1 + z2 / total)
    half = Z95 / (1 + z2 / total) * math.sqrt(p * (1 - p) / total + z2 / (4 * total * total))
    return max(0.0, centre - half), min(1.0, centre + half)


def question_kinds(questions: QuestionSet) -> Tensor | None:
    """Index (N,) of each question's type into ``QUESTION_TYPES``, -1 for none of them; None for
    a file that does not tell."""
    if questions.types is None:
        return None
    kinds = [question_type(name) for name in ANSWER_FUNCTIONS]
    table = torch.tensor([list(QUESTION_TYPES).index(k) for k in kinds] + [-1])
    return table[questions.types]


def type_accuracies(right: Tensor, kinds: Tensor) -> dict[str, float]:
    """Share of right answers (N,) by question type, of those types that occur in ``kinds``."""
    return {
        name: float(right[kinds == i].double().mean())
        for i, name in enumerate(QUESTION_TYPES)
        if (kinds == i).any()
    }


def _row(right: Tensor, members: Tensor) -> dict[str, Any]:
    total, correct = int(members.sum()), int((right & members).sum())
    return {
        "accuracy": correct / total if total else None,
        "correct": correct,
        "questions": total,
        "interval": list(wilson_interval(correct, total)),
    }


def accuracy_report(found: Tensor, questions: QuestionSet) -> dict[str, Any]:
    """Rows (accuracy, correct, questions, 95% interval) overall and by kind of question.

    ``by_type`` has the five types, ``by_function`` the thirteen last functions, ``by_family``
    and ``by_program_length`` what occurs; kinds that the file does not tell are left out.

    Parameters
    ----------
    found
        Predicted answers (N,) in the order of the file.

    Raises
    ------
    UserError
        If the questions have no answers.
    """
    if questions.answers is None:
        raise UserError(f"{questions.path}: has no answers to compare with")
    right = found.cpu() == questions.answers.cpu()
    report: dict[str, Any] = {"overall": _row(right, torch.ones_like(right))}
    kinds = question_kinds(questions)
    if questions.types is not None and kinds is not None:
        types = questions.types.cpu()
        report["by_type"] = {k: _row(right, kinds == i) for i, k in enumerate(QUESTION_TYPES)}
        report["by_function"] = {f: _row(right, types == i) for i, f in enumerate(ANSWER_FUNCTIONS)}
    for key, values in (
        ("by_family", questions.families),
        ("by_program_length", questions.program_lengths),
    ):
        if values is not None:
            kinds_found = sorted(set(values.tolist()))
            report[key] = {str(v): _row(right, values.cpu() == v) for v in kinds_found}
    return report


def format_report(report: dict[str, Any], *, families: bool = False, lengths: bool = False) -> str:
    """The report as a table to print; families and program lengths on request."""
    sections = [("", {"overall": report["overall"]})]
    sections.append(("question type", report.get("by_type", {})))
    sections.append(("last function", report.get("by_function", {})))
    if families:
        sections.append(("family", report.get("by_family", {})))
    if lengths:
        sections.append(("program length", report.get("by_program_length", {})))
    lines = [f"{'':<20}{'accuracy':>9}{'95% interval':>18}{'questions':>11}"]
    for title, rows in sections:
        if title and rows:
            lines.append(f"{title}:")
        for name, row in rows.items():
            low, high = (100 * bound for bound in row["interval"])
            share = "-" if row["accuracy"] is None else f"{100 * row['accuracy']:.2f}%"
            span = f"{low:.2f} to {high:.2f}"
            indent = "  " if title else ""
            lines.append(f"{indent + name:<20}{share:>9}{span:>18}{row['questions']:>11,}")
    return "\n".join(lines)


def format_comparison(reports: dict[str, dict[str, Any]]) -> str:
    """Overall accuracy and that of the five types, one column a report."""
    lines = ["".join([f"{'':<20}", *(f"{name:>16}" for name in reports), f"{'questions':>12}"])]
    first = next(iter(reports.values()))
    for name in ("overall", *first["by_type"]):
        rows = [r["overall"] if name == "overall" else r["by_type"][name] for r in reports.values()]
        shares = ["-" if r["accuracy"] is None else f"{100 * r['accuracy']:.1f}%" for r in rows]
        cells = "".join(f"{share:>16}" for share in shares)
        lines.append(f"{name:<20}{cells}{rows[0]['questions']:>12,}")
    return "\n".join(lines)
