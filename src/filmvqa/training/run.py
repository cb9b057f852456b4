"""A training run in its folder: prepare, restore, record and train it."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from filmvqa.settings.effects import Effect
from filmvqa.system import processes
from filmvqa.system.disk import check_disk_space
from filmvqa.system.errors import warn
from filmvqa.system.files import check_output, write_file
from filmvqa.system.layout import RunLayout
from filmvqa.system.locks import folder_lock
from filmvqa.system.memory import explained_out_of_memory
from filmvqa.tasks.protocol import task_of
from filmvqa.training.config_changes import ConfigChanges
from filmvqa.training.loggers import Logger, build_loggers
from filmvqa.training.prepare import PreparedRun, out_of_memory_message, prepare_run
from filmvqa.training.restore import (
    check_config,
    load_last_checkpoint,
    note_environment,
    restore_run,
)
from filmvqa.training.settings import RunSettings
from filmvqa.training.trainer import EndAfter, Trainer
from filmvqa.training.transfer import count_weights


def train_run(
    folder: str | Path, settings: RunSettings, *, end_after: EndAfter | None = None
) -> float:
    """Train in ``folder``; resume from its ``last.pt`` if there is one.

    Parameters
    ----------
    end_after
        As for ``Trainer.fit``.

    Returns
    -------
    float
        The best mean validation score, also of a run that had already finished.

    Raises
    ------
    UserError
        If the folder holds a run of a config that gives another result (``config_changes``), or a
        file or an option does not fit.
    """
    settings.check_models()
    layout = RunLayout(Path(folder))
    with folder_lock(layout.folder):
        processes.gathered(None)  # wait until the first process has the lock
        saved = load_last_checkpoint(layout, resume=settings.resume)
        changes = ConfigChanges()
        if saved is not None:
            changes = check_config(layout, saved, settings.config)
            # After other changes, whether it has ended is only known once the data are open.
            if saved["progress"]["finished"] and not changes.of(Effect.DATA, Effect.LENGTH):
                return _finished_already(layout, settings, saved["progress"]["best_accuracy"])
        if processes.is_first():
            check_output(layout.last_checkpoint)
        run = prepare_run(layout, settings, saved=saved)
        try:
            if saved is not None:
                with explained_out_of_memory(
                    lambda: out_of_memory_message(layout, settings.store, run.device)
                ):
                    restore_run(run, saved, changes)
                if saved["progress"]["finished"] and run.state.finished:
                    ended_early = run.state.step < run.state.total_steps
                    best = run.state.best_score
                    return _finished_already(layout, settings, best, ended_early=ended_early)
            note_environment(run)
            if processes.is_first():
                _check_room_for_checkpoints(run)
                record_run(run)
            return fit_run(run, end_after)
        finally:
            run.close()


def _finished_already(
    layout: RunLayout, settings: RunSettings, best_score: float, *, ended_early: bool = False
) -> float:
    best = float(best_score)
    remedy = "; it ended early: raise trainer.patience to continue" if ended_early else ""
    score = f"{task_of(settings.model['name']).score_title} {100 * best:.2f}%"
    print(f"{layout.folder}: already finished, best validation {score}{remedy}")
    return best


def record_run(run: PreparedRun) -> None:
    """Print the model's size, and write the run's config, provenance and training images."""
    layout, settings, state, subset = run.layout, run.settings, run.state, run.subset
    data = settings.data
    weights, trained = count_weights(state.model)
    print("weights by part: " + ", ".join(
        f"{name} {count_weights(part)[0]:,}" for name, part in state.model.named_children()
    ))  # fmt: skip
    print(f"{settings.model['name']}: {weights:,} weights, {trained:,} of them trained, on "
          f"{run.device}; {len(subset.rows):,} questions about {len(subset.images):,} images; "
          f"{run.train.store.description}")  # fmt: skip
    write_file(layout.config, yaml.safe_dump(settings.config, sort_keys=False))
    record = {"environments": state.environments, "inputs": run.metadata["inputs"]}
    write_file(layout.provenance, json.dumps(record, indent=1) + "\n")
    if data.fraction < 1:
        chosen = {
            "split": data.train_split, "fraction": data.fraction, "seed": settings.seed,
            "images": subset.images.tolist(),
        }  # fmt: skip
        write_file(layout.train_images, json.dumps(chosen) + "\n")


def fit_run(run: PreparedRun, end_after: EndAfter | None = None) -> float:
    """Train to the end; return the best mean validation score."""
    layout, settings, state = run.layout, run.settings, run.state
    loggers = []
    if processes.is_first():
        loggers = build_loggers(settings.logger, layout, settings.config, state.records, state.step)
    try:
        trainer = trainer_of(run, loggers)
        warmup_steps = settings.optim.warmup_steps
        if processes.is_first() and state.total_steps <= warmup_steps:
            warn(
                f"optim.warmup_steps={warmup_steps}: the run ends after {state.total_steps} "
                "steps, before its learning rate has risen to optim.lr; lower it, or train longer"
            )
        best = trainer.fit(end_after)
    finally:
        for logger in loggers:
            logger.close()
    if processes.is_first() and state.finished:
        score = f"{task_of(settings.model['name']).score_title} {100 * best:.2f}%"
        print(f"written to {layout.best_checkpoint}: best validation {score}")
    return best


def trainer_of(run: PreparedRun, loggers: list[Logger]) -> Trainer:
    """The trainer of a prepared run."""
    settings = run.settings
    return Trainer(
        run.state, settings.trainer, run.train, run.val, run.layout, run.metadata, loggers,
        run.val_rows, settings.seed, settings.train.frozen_batch_norm,
        settings.data.layout.image_folder(settings.data.val_split),
    )  # fmt: skip


def _check_room_for_checkpoints(run: PreparedRun) -> None:
    """Raise ``UserError`` unless the disk has room for the checkpoints.

    These are the best, the last, one that is being written, and those of ``keep_best``.
    """
    kept = run.settings.trainer.keep_best
    count = 3 if kept == 1 else 3 + kept
    written = sum(path.stat().st_size for path in run.layout.folder.glob("*.pt"))
    check_disk_space(run.layout.folder, max(0, count * run.state.num_bytes - written))
