"""Resuming a run from its last checkpoint."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from filmvqa.checkpoints.checkpoint import load_checkpoint, other_file_remedy
from filmvqa.evaluation.provenance import changed_inputs, environment
from filmvqa.settings.effects import Effect
from filmvqa.settings.nested import differences
from filmvqa.system.errors import UserError, one_line, warn
from filmvqa.system.layout import RunLayout
from filmvqa.training.config_changes import ConfigChanges, config_changes
from filmvqa.training.prepare import PreparedRun


def load_last_checkpoint(layout: RunLayout, *, resume: bool) -> dict[str, Any] | None:
    """Load a run's last checkpoint; None if there is none.

    Raises
    ------
    UserError
        If there is one and ``resume`` is False, or if it is a broken link.
    """
    path = layout.last_checkpoint
    if not os.path.lexists(path):
        return None
    if path.is_symlink() and not path.exists():
        raise UserError(
            f"{path}: is a link to {path.readlink()}, which is missing; restore that file, or "
            "choose another run=<name>"
        )
    if not resume:
        raise UserError(f"{layout.folder}: already holds a run; resume=true resumes it")
    return load_checkpoint(path)


def check_config(layout: RunLayout, saved: dict[str, Any], config: dict[str, Any]) -> ConfigChanges:
    """Compare the config with that of a checkpoint, and print changes that allow to resume.

    Raises
    ------
    UserError
        If a changed key changes the result.
    """
    changes = config_changes(saved["config"], config)
    if refused := changes.of(Effect.RESULT):
        raise UserError(
            f"{layout.folder}: holds a run of another config ({'; '.join(refused)}), which would "
            "change its result; choose another run=<name>"
        )
    if allowed := changes.of(Effect.NONE, Effect.DATA, Effect.LENGTH):
        print(f"{layout.folder}: resuming although its config changed: {'; '.join(allowed)}")
    if rounding := changes.of(Effect.ROUNDING):
        warn(f"{layout.folder}: resuming where bits may differ ({'; '.join(rounding)})")
    return changes


def restore_run(run: PreparedRun, saved: dict[str, Any], changes: ConfigChanges) -> None:
    """Restore the run's state from a checkpoint; ``changes`` are the changes of its config.

    Raises
    ------
    UserError
        If the data changed, the changed length is not possible, or the checkpoint does not fit.
    """
    layout, state, path = run.layout, run.state, run.layout.last_checkpoint
    if changed := changed_inputs(saved["inputs"], run.metadata["inputs"]):
        keys = "; ".join(changes.of(Effect.DATA))
        raise UserError(
            f"{layout.folder}: {' and '.join(changed)} changed since the run began"
            f"{f' ({keys})' if keys else ''}; bring back the data, or choose another run=<name>"
        )
    try:
        recut_rows = state.load_state_dict(saved)
    except (KeyError, RuntimeError, TypeError, ValueError, AttributeError) as error:
        raise UserError(
            f"{path}: training cannot resume from it ({one_line(error)}); {other_file_remedy(path)}"
        ) from None
    _check_length(run, saved, changes)
    state.finished = state.has_ended(run.settings.trainer.patience)
    if state.finished:
        return
    print(f"{layout.folder}: resuming from step {state.step}")
    if recut_rows:
        warn(
            f"{layout.folder}: was saved by a version that cut an epoch's last batches differently:"
            f" in this epoch {recut_rows} of its questions come twice or not at all"
        )


def _check_length(run: PreparedRun, saved: dict[str, Any], changes: ConfigChanges) -> None:
    """Raise ``UserError`` if the number of steps changed and this is not possible.

    The learning rates so far may depend on the number, or the run may have passed the new end.
    """
    state, trainer = run.state, run.settings.trainer
    changed = "; ".join(changes.of(Effect.LENGTH))
    if not changed or state.total_steps == 0:
        return
    before = saved["config"].get("trainer", {})
    lengths = {key: before[key] for key in ("max_epochs", "max_steps") if key in before}
    old_total = replace(trainer, **lengths).total_steps(state.sampler.batches_per_epoch)
    if state.total_steps == old_total:
        return
    if (schedule := run.settings.optim.schedule) != "constant":
        raise UserError(
            f"{run.layout.folder}: {changed}: with optim.schedule={schedule} the learning rates of "
            f"the {state.step} steps done are those of a run of {old_total} steps, not "
            f"{state.total_steps}; choose another run=<name> (train.init_from="
            f"{run.layout.best_checkpoint} starts from its weights)"
        )
    if state.step > state.total_steps:
        raise UserError(
            f"{run.layout.folder}: {changed}: the run is already at step {state.step}, and would "
            f"end at {state.total_steps}; raise it, or choose another run=<name>"
        )


def note_environment(run: PreparedRun) -> None:
    """Record the environment of the run; warn if it changed since the run was interrupted."""
    state, now = run.state, environment(run.device)
    if state.environments:
        last = {k: v for k, v in state.environments[-1].items() if k != "from_step"}
        if now == last:
            return
        changed = "; ".join(differences(last, now))
        warn(f"{run.layout.folder}: resuming where bits may differ ({changed})")
    state.environments.append({"from_step": state.step, **now})
