"""Detection of overfitting."""

from __future__ import annotations

from typing import Any

#: A run overfits if this many evaluations bring no better validation score, and the gap grows.
PATIENCE = 3
#: The smallest increase of the validation score that counts as an improvement.
MIN_IMPROVEMENT = 0.002
#: The smallest growth of the gap between training and validation score that counts.
MIN_GAP_GROWTH = 0.01


def overfitting_warning(history: list[dict[str, Any]], metric: str = "val_accuracy") -> str | None:
    """A warning if the gap grows while the validation score does not improve.

    Parameters
    ----------
    history
        The run's evaluations so far, each with ``step``, ``metric``, and ``gap``, which is training
        score minus validation score.
    metric
        The name of the mean validation score.

    Returns
    -------
    str or None
        The warning. None if the run does not overfit, or already did at the previous evaluation:
        each period of overfitting is reported once.
    """
    if _describe(history[:-1], metric) is not None:
        return None
    return _describe(history, metric)


def _describe(history: list[dict[str, Any]], metric: str) -> str | None:
    """Describe the overfitting at the last evaluation; None if there is none."""
    if len(history) <= PATIENCE:
        return None
    best = history[0]
    for record in history:
        if record[metric] > best[metric] + MIN_IMPROVEMENT:
            best = record
    since_best = history[history.index(best) :]
    gap_growth = since_best[-1]["gap"] - best["gap"]
    if len(since_best) <= PATIENCE or gap_growth < MIN_GAP_GROWTH:
        return None
    return (
        f"overfitting: since step {best['step']} validation has not improved on "
        f"{100 * best[metric]:.1f}%, and the gap to training grew from "
        f"{100 * best['gap']:.1f} to {100 * since_best[-1]['gap']:.1f} points; train on "
        "more images, raise optim.weight_decay (to 1e-4 or 1e-3) or trainer.film_penalty, or stop"
    )
