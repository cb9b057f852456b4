"""A run that goes on from its last checkpoint."""

from __future__ import annotations

from typing import Any

from filmvqa.checkpoint import load_checkpoint, remedy
from filmvqa.errors import UserError, one_line, warn
from filmvqa.layout import RunLayout
from filmvqa.nested import differences
from filmvqa.training.prepare import PreparedRun
from filmvqa.training.provenance import changed_inputs, environment


def load_last_checkpoint(
    layout: RunLayout, config: dict[str, Any], *, resume: bool
) -> dict[str, Any] | None:
    """The content of a run's last checkpoint, None if there is none.

    Raises
    ------
    UserError
        If the checkpoint is of another config, or ``resume`` is False.
    """
    if not layout.last_checkpoint.exists():
        return None
    saved = load_checkpoint(layout.last_checkpoint)
    if not resume:
        raise UserError(f"{layout.folder}: holds a run already; resume=true goes on with it")
    if changed := differences(saved["config"], config):
        raise UserError(
            f"{layout.folder}: holds a run of another config ({'; '.join(changed)}); "
            "choose another run=<name>, or delete it"
        )
    return saved


def restore_run(run: PreparedRun, saved: dict[str, Any]) -> None:
    """Set the run's state to that of a checkpoint.

    Raises
    ------
    UserError
        If the data changed, or the checkpoint does not fit.
    """
    path = run.layout.last_checkpoint
    if changed := changed_inputs(saved["inputs"], run.metadata["inputs"]):
        raise UserError(
            f"{run.layout.folder}: {' and '.join(changed)} changed since the run began; bring the "
            "data back, or choose another run=<name>"
        )
    try:
        run.state.load_state_dict(saved)
    except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: training cannot go on with it ({one_line(error)}); {remedy(path)}"
        ) from None
    print(f"{run.layout.folder}: going on from step {run.state.step}")


def note_environment(run: PreparedRun) -> None:
    """Record what the run runs in, if it differs from before; warn if it does."""
    state, now = run.state, environment(run.device)
    if state.environments:
        last = {k: v for k, v in state.environments[-1].items() if k != "from_step"}
        if now == last:
            return
        changed = "; ".join(differences(last, now))
        warn(f"{run.layout.folder}: goes on where bits may differ ({changed})")
    state.environments.append({"from_step": state.step, **now})
