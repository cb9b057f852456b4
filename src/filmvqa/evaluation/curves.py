"""A run's accuracies over its steps, as a picture."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from filmvqa.files import atomic_write


def read_evaluations(metrics: str | Path) -> list[dict[str, Any]]:
    """The evaluations among a run's ``metrics.jsonl``."""
    records = [json.loads(line) for line in Path(metrics).read_text().splitlines()]
    return [r for r in records if "val_accuracy" in r]


def draw_curves(metrics: str | Path, target: str | Path) -> None:
    """A PNG of training and validation accuracy against steps, the gap between them filled."""
    from matplotlib.figure import Figure

    evaluations = read_evaluations(metrics)
    steps = [r["step"] for r in evaluations]
    train, val = ([100 * r[k] for r in evaluations] for k in ("train_accuracy", "val_accuracy"))
    figure = Figure(figsize=(6, 4), layout="constrained")
    axes = figure.subplots()
    axes.fill_between(steps, train, val, color="0.5", alpha=0.2, label="gap")
    axes.plot(steps, train, "o-", color="C1", markersize=3, label="training sample")
    axes.plot(steps, val, "o-", color="C0", markersize=3, label="validation")
    axes.set(xlabel="step", ylabel="accuracy (%)")
    axes.grid(alpha=0.3)
    axes.legend()
    with atomic_write(target) as stream:
        figure.savefig(stream, format="png", dpi=150)
