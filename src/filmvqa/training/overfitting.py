"""Seeing that a run overfits, and saying so."""

from __future__ import annotations

from typing import Any

#: Evaluations without a better validation accuracy that count as standing still.
STILL = 3
#: Validation accuracy that counts as better, and growth of the gap that counts as growth.
BETTER, GROWTH = 0.002, 0.01


def overfitting(history: list[dict[str, Any]]) -> str | None:
    """A warning in words when the gap grows while validation stands still, else None.

    Parameters
    ----------
    history
        A run's evaluations so far: ``step``, ``val_accuracy``, ``gap`` (training minus
        validation accuracy).

    Returns
    -------
    str or None
        The warning, once: None while the state lasts that was warned of.
    """
    return _state(history) if _state(history[:-1]) is None else None


def _state(history: list[dict[str, Any]]) -> str | None:
    if len(history) <= STILL:
        return None
    best = history[0]
    for record in history:
        if record["val_accuracy"] > best["val_accuracy"] + BETTER:
            best = record
    since = history[history.index(best) :]
    grown = since[-1]["gap"] - since[0]["gap"]
    if len(since) <= STILL or grown < GROWTH:
        return None
    return (
        f"overfitting: since step {best['step']} validation stands still at "
        f"{100 * best['val_accuracy']:.1f}% while the gap to training grew from "
        f"{100 * since[0]['gap']:.1f} to {100 * since[-1]['gap']:.1f} points; regularise "
        "(optim.weight_decay, optim.part_weight_decay, trainer.film_penalty, dropout) or stop"
    )
