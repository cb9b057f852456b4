"""How far arithmetic on γ and β closes the gap between the conditions of CLEVR-CoGenT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from filmvqa.studies.bootstrap import Difference, estimate_difference
from filmvqa.studies.judging import judge_difference
from filmvqa.system.figures import add_plots, draw_figure
from filmvqa.system.layout import EvaluationLayout, RunLayout
from filmvqa.system.tables import text_table
from filmvqa.tasks.protocol import read_predictions

#: What is done with the rewritten questions, by the folder of the evaluation.
ARMS = {
    "arithmetic_direct": "as they are",
    "arithmetic_cogent": "arithmetic on γ, β and keys",
    "arithmetic_cogent_encoding": "arithmetic on the encoding",
    "arithmetic_first": '"cyan spheres" alone',
    "arithmetic_second": '"brown cubes" alone',
    "arithmetic_third": '"brown spheres" alone',
    "arithmetic_mean": "mean of the three",
}
DIRECT, COGENT, HAS = "arithmetic_direct", "arithmetic_cogent", "_has"
#: Points of accuracy that count as no difference. The paper's gain is over all questions.
MARGIN = 1.0

#: By question: its image, and its score.
Scores = dict[int, tuple[int, float]]


def read_scores(run: Path, split: str, change: str = "") -> Scores:
    """Read an evaluation of a run, with a change of γ and β or without one.

    Raises
    ------
    UserError
        If it is missing or malformed.
    """
    path = EvaluationLayout(RunLayout(run).evaluation / change, split).predictions
    return {
        record.question_index: (int(record.image_index or 0), float(record.score or 0.0))
        for record in read_predictions(path)
    }


def report_zero_shot(
    film: Path, others: dict[str, Path], condition_a: str, condition_b: str
) -> tuple[dict[str, Any], str]:
    """Make the report, and its table as text.

    Parameters
    ----------
    film
        The run that was trained on condition A. It has evaluations of all arms on ``condition_b``,
        and of the first two, for pairs that A has, on ``condition_a``.
    others
        Runs that were trained on condition B too, with their evaluations.
    condition_a, condition_b
        The splits.
    """
    scores_a = read_scores(film, condition_a)
    scores_b = {name: read_scores(run, condition_b) for name, run in others.items()}
    scores_b["film"] = read_scores(film, condition_b)
    arms = {arm: read_scores(film, condition_b, arm) for arm in ARMS}
    seen = {arm: read_scores(film, condition_a, f"{arm}{HAS}") for arm in (DIRECT, COGENT)}
    # Without the images that a run trained on.
    questions = set.intersection(*map(set, scores_b.values()))
    concerned = sorted(questions & arms[DIRECT].keys())
    rows = {
        arm: {
            "all": _mean(scores_b["film"] | scores, questions),
            "concerned": _mean(scores, concerned),
        }
        for arm, scores in arms.items()
    }
    rows |= {
        name: {
            "all": _mean(scores_b[name], questions),
            "concerned": _mean(scores_b[name], concerned),
        }
        for name in others
    }
    gain = _difference(arms[COGENT], arms[DIRECT], concerned)
    lost = _difference(seen[COGENT], seen[DIRECT], sorted(seen[DIRECT]))
    report = {
        "condition_a": _mean(scores_a, scores_a),
        "questions": len(questions),
        "concerned": len(concerned),
        "accuracy": rows,
        "gain": vars(gain) | {"verdict": judge_difference(gain, "more", MARGIN / 100)},
        "not_needed": vars(lost) | {"verdict": judge_difference(lost, "same", MARGIN / 100)},
    }
    return report, _format(report, gain, lost)


def _mean(scores: Scores, questions: Any) -> float:
    return float(np.mean([scores[question][1] for question in questions]))


def _difference(first: Scores, second: Scores, questions: list[int]) -> Difference:
    images = np.array([first[q][0] for q in questions])
    arrays = [np.array([[scores[q][1] for q in questions]]) for scores in (first, second)]
    return estimate_difference(arrays[0], arrays[1], images)


def _format(report: dict[str, Any], gain: Difference, lost: Difference) -> str:
    rows = [["", "of B", "of B, concerned"]]
    for name, row in report["accuracy"].items():
        label = f"trained on A, {ARMS[name]}" if name in ARMS else name
        rows.append([label, *(f"{100 * row[key]:.1f}%" for key in ("all", "concerned"))])
    condition_a, needed, not_needed = (report[key] for key in ("condition_a", "gain", "not_needed"))
    return (
        f"{100 * condition_a:.1f}% of condition A's questions; of B's {report['questions']:,}, of "
        f"which {report['concerned']:,} name a colour of a shape that A lacks:\n\n"
        f"{text_table(rows)}\n\n"
        f"What arithmetic brings where it is needed, in points with a 95% interval over images: "
        f"{gain.format_points()}: {needed['verdict']}\n"
        f"where it is not, and the same is claimed: {lost.format_points()}: {not_needed['verdict']}"
    )


def draw_arms(report: dict[str, Any], target: Path) -> None:
    """Write a PNG of the accuracy on rewritten questions, with the interval of the gain."""
    names = list(report["accuracy"])[::-1]
    values = [100 * report["accuracy"][name]["concerned"] for name in names]
    with draw_figure(target, 7, 3.5) as figure:
        (axes,) = add_plots(figure)
        axes.barh([ARMS.get(name, name) for name in names], values,
                  color=["C0" if name in ARMS else "C7" for name in names])  # fmt: skip
        axes.set(xlabel="accuracy in %, questions of B about pairs that A lacks", xlim=(0, 100))
        direct, gain = 100 * report["accuracy"][DIRECT]["concerned"], report["gain"]
        axes.errorbar(
            values[names.index(COGENT)], names.index(COGENT), color="black", capsize=4,
            xerr=[[100 * (gain["mean"] - gain["low"])], [100 * (gain["high"] - gain["mean"])]],
        )  # fmt: skip
        axes.axvline(direct, color="black", linestyle=":")
