"""The learning curves of a run."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec

from filmvqa.system import processes
from filmvqa.system.errors import UserError
from filmvqa.system.figures import add_plots, draw_figure
from filmvqa.system.files import is_up_to_date, read_bytes
from filmvqa.system.layout import RunLayout
from filmvqa.system.side_output import going_on_without
from filmvqa.tasks.protocol import TASKS, score_title


def _evaluation_type(metric: str) -> type[msgspec.Struct]:
    """The record of an evaluation, whose keys have a task's metric in their names."""
    scores = [(f"{split}_{metric}", float) for split in ("train", "val")]
    return msgspec.defstruct(
        "Evaluation", [("step", int), *scores, ("val_by_type", dict[str, float], {})]
    )


def read_evaluations(metrics: str | Path) -> list[dict[str, Any]]:
    """Read the evaluation records of a run's ``metrics.jsonl``.

    Each record also gets ``metric``, the name of the score, and ``train`` and ``val``, its means.
    A last line without a newline is ignored: the run is still writing it.

    Raises
    ------
    UserError
        If the file is missing or a line is invalid.
    """
    lines = read_bytes(metrics, "train the run again").splitlines(keepends=True)
    if lines and not lines[-1].endswith(b"\n"):
        lines.pop()
    record_types = {task.metric: _evaluation_type(task.metric) for task in TASKS.values()}
    evaluations = []
    for number, line in enumerate(lines, 1):
        try:
            record = msgspec.json.decode(line, type=dict[str, Any])
            for metric, record_type in record_types.items():
                if f"val_{metric}" in record:
                    msgspec.convert(record, record_type)
                    means = {name: record[f"{name}_{metric}"] for name in ("train", "val")}
                    evaluations.append({**record, "metric": metric, **means})
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            raise UserError(
                f"{metrics}: line {number}: {error}; the run's checkpoints do not depend on this "
                "file; move the run's folder away to report the other runs"
            ) from None
    return evaluations


def update_curves(layout: RunLayout) -> None:
    """Draw a run's curves if they are out of date; a failure is only a warning.

    Only the first of several processes draws.
    """
    with going_on_without(str(layout.curves)):
        if processes.is_first() and not is_up_to_date(layout.curves, layout.metrics):
            draw_curves(layout.metrics, layout.curves)


def draw_curves(metrics: str | Path, target: str | Path) -> None:
    """Plot training and validation score against steps as a PNG, with the gap filled, and beside
    it the validation score of each type of question, if there are types."""
    evaluations = read_evaluations(metrics)
    steps = [record["step"] for record in evaluations]
    train = [100 * record["train"] for record in evaluations]
    val = [100 * record["val"] for record in evaluations]
    types = list(evaluations[-1].get("val_by_type", ())) if evaluations else []
    metric = evaluations[0]["metric"] if evaluations else "accuracy"
    panels = 2 if types else 1
    with draw_figure(target, 5 * panels + 1, 4, dpi=150) as figure:
        plots = add_plots(figure, 1, panels, sharey=True)
        plots[0].fill_between(steps, train, val, color="0.5", alpha=0.2, label="gap")
        plots[0].plot(steps, train, "o-", color="C1", markersize=3, label="training sample")
        plots[0].plot(steps, val, "o-", color="C0", markersize=3, label="validation")
        plots[0].set(ylabel=f"{score_title(metric)} (%)")
        by_type = [record.get("val_by_type", {}) for record in evaluations]
        for kind in types:
            course = [100 * scores.get(kind, math.nan) for scores in by_type]
            plots[1].plot(steps, course, "o-", markersize=3, label=kind)
        for axes in plots:
            axes.set(xlabel="step")
            axes.legend()
