"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing
from inspect import signature
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from tqdm import tqdm

from filmvqa.checkpoints.checkpoint import save_checkpoint
from filmvqa.evaluation.batches import Batch, Loader
from filmvqa.evaluation.predictions import PredictionStoppedError, predict
from filmvqa.models.batch_norm import SharedStatistics, share_statistics
from filmvqa.models.fast.precision import choose_precision
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.settings.typed import FrozenBatchNorm
from filmvqa.system import processes
from filmvqa.system.devices import autocast
from filmvqa.system.errors import Interrupted, UserError
from filmvqa.system.layout import RunLayout
from filmvqa.system.memory import explained_out_of_memory
from filmvqa.tasks.protocol import task_of
from filmvqa.tasks.reports import type_means
from filmvqa.training.added_losses import AddedLosses
from filmvqa.training.failures import FiniteCheck, describe_memory_use, warn_of_untrained
from filmvqa.training.loggers import Logger
from filmvqa.training.optimizer import clipped_parts
from filmvqa.training.overfitting import overfitting_warning
from filmvqa.training.part_norms import PartNorms
from filmvqa.training.settings import TrainerSettings
from filmvqa.training.snapshots import SnapshotTaker
from filmvqa.training.state import RunState, update_ema
from filmvqa.training.stopping import StopRequest
from filmvqa.training.throughput import ThroughputMeter
from filmvqa.training.transfer import training_mode

#: Called with the step and the mean validation score; returns whether to end the run.
EndAfter: TypeAlias = Callable[[int, float], bool]
#: Whether each forward pass copies the first process's buffers. Torch renames this argument.
_COPY_BUFFERS = "forward_sync_buffers"
if _COPY_BUFFERS not in signature(DistributedDataParallel).parameters:
    _COPY_BUFFERS = "broadcast_buffers"


class Trainer:
    """Trains ``state.model`` on ``train`` and keeps the checkpoint with the best score on ``val``.

    The model's task defines the loss and the score. A model without trainable weights is only
    evaluated.

    Parameters
    ----------
    layout
        The run's files.
    metadata
        The entries of checkpoints beside the state: model name and options, configuration,
        vocabulary.
    val_rows
        (M,) the validation questions that are scored.
    sample_seed
        Seed of the samples of ``train_sample`` and ``val_sample``.
    frozen_batch_norm
        As in ``training_mode``.
    val_images
        The folder of the validation pictures, which loggers show.

    Attributes
    ----------
    network
        The model, wrapped so that all processes train it together.
    """

    def __init__(
        self,
        state: RunState,
        settings: TrainerSettings,
        train: Loader,
        val: Loader,
        layout: RunLayout,
        metadata: dict[str, Any],
        loggers: list[Logger],
        val_rows: Tensor,
        sample_seed: int = 0,
        frozen_batch_norm: FrozenBatchNorm = "eval",
        val_images: Path | None = None,
    ) -> None:
        self.state, self.settings = state, settings
        self.train_loader, self.val_loader = train, val
        self.layout, self.metadata, self.loggers = layout, metadata, loggers
        self.frozen_batch_norm = frozen_batch_norm
        self.precision = choose_precision(state.model, state.device, settings.precision)
        self.train_rows = _sample(state.sampler.available, settings.train_sample, sample_seed)
        self.val_rows = _sample(val_rows, settings.val_sample, sample_seed)
        self.task = task_of(
            state.model, bce_weight=settings.bce_weight, dice_weight=settings.dice_weight
        )
        self.val_types: tuple[list[str], Tensor] | None = None
        if (types := self.task.question_types(val.questions)) is not None:
            self.val_types = types[0], types[1][self.val_rows]
        self.finite = FiniteCheck(state, train, layout)
        self.added = AddedLosses(state.model, settings, train.store.feature_spec)
        self.network, self._statistics = _over_processes(state.model, settings)
        self._clipped_parts = [list(state.model.parameters())]
        if settings.grad_clip_by_part:
            if settings.grad_clip is None:
                raise UserError("trainer.grad_clip_by_part: needs trainer.grad_clip; give its norm")
            self._clipped_parts = clipped_parts(state.model)
        self.stop = StopRequest()
        self.norms = PartNorms(state.model)
        self.snapshots: SnapshotTaker | None = None
        if len(loggers) > 1:  # metrics.jsonl has no snapshots
            self.snapshots = SnapshotTaker(
                val, self.val_rows, Vocabulary.from_dict(metadata["vocabulary"]),
                val_images or Path(), self.precision,
            )  # fmt: skip

    def fit(self, end_after: EndAfter | None = None) -> float:
        """Train to the end; return the best mean validation score.

        Parameters
        ----------
        end_after
            Called after each evaluation, once the state is saved, with the step and the mean
            validation score; True ends the run, which can be resumed.

        Raises
        ------
        Interrupted
            If a signal asked the run to stop, after saving. If the program that started the job
            handles the signal, its handler may raise SystemExit instead.
        UserError
            If the loss or a weight is not finite, or memory runs out. ``last.pt`` is then that of
            the last save.
        """
        state = self.state
        training_mode(state.model, self.frozen_batch_norm)
        self._started = time.monotonic() - state.seconds
        self._saved = time.monotonic()
        self._summed = state.steps_in_window  # a checkpoint's losses are already summed
        if state.finished:  # resumed with an earlier end than before
            self._save(self.layout.last_checkpoint)
        meter = ThroughputMeter(self.train_loader)
        batches = self.train_loader.train_batches(state.sampler)
        vote = processes.Vote()
        with (
            closing(batches),
            self.stop.handle_signals(),
            explained_out_of_memory(
                lambda: describe_memory_use(state, self.settings, self.train_loader, self.layout)
            ),
            tqdm(total=state.total_steps, initial=state.step, desc="train", unit="step") as bar,
        ):
            while not state.finished:
                if not self._evaluation_due():
                    self.step(next(batches))
                    bar.update()
                    if self._is_multiple(self.settings.log_every):
                        bar.set_postfix(self._log_window(meter), refresh=False)
                    # All processes follow the first one's clock, and a signal to any of them.
                    stop, save = vote.exchange(self.stop.requested, self._save_due())
                    if stop or save:
                        vote.close()
                        self._save(self.layout.last_checkpoint)
                    if stop:
                        raise self._interrupted()
                if self._evaluation_due():
                    with meter.paused():
                        self._evaluate(bar.write)
                    score = state.history[-1][self._val_metric]
                    if end_after is not None and end_after(state.step, score):
                        break
        vote.close()
        return state.best_score

    @property
    def _val_metric(self) -> str:
        """The key of the mean validation score in records."""
        return f"val_{self.task.metric}"

    def _is_multiple(self, every: int, step: int | None = None) -> bool:
        """Whether a step is a multiple of ``every`` or the last; None is the current step."""
        step = self.state.step if step is None else step
        return step == self.state.total_steps or (step > 0 and step % every == 0)

    def _evaluation_due(self) -> bool:
        """Also true after resuming from a checkpoint that was saved before its evaluation."""
        every = self.settings.eval_every or self.state.sampler.batches_per_epoch
        return self._is_multiple(every) and self.state.evaluated < self.state.step

    def _save_due(self) -> bool:
        if not processes.is_first():
            return False
        steps, minutes = self.settings.checkpoint_steps, self.settings.checkpoint_minutes
        if steps is not None and self.state.step % steps == 0:
            return True
        return minutes is not None and time.monotonic() - self._saved > 60 * minutes

    def _interrupted(self) -> Interrupted:
        steps = f"step {self.state.step} of {self.state.total_steps}"
        return self.stop.interrupted(self.layout.folder, steps)

    def step(self, batch: Batch) -> None:
        """Do one training step, and record its loss and the sum of its scores on the device."""
        state, settings = self.state, self.settings
        assert batch.targets is not None  # ``prepare_run`` checks this
        if self._statistics is not None:
            self._statistics.counts = batch.counts
        output, added = self._forward(batch)
        loss = self.task.loss(output, batch.targets)
        state.optimizer.zero_grad(set_to_none=True)
        # DistributedDataParallel averages gradients, so each loss is weighted by its questions.
        weight = batch.share * processes.count()
        (weight * (loss + added)).backward()  # type: ignore[no-untyped-call]
        if state.step == 0:
            warn_of_untrained(state.model)
        is_logged = self._is_multiple(settings.log_every, state.step + 1)
        if is_logged:
            self.norms.before_update()
        if settings.grad_clip is not None:
            for parameters in self._clipped_parts:
                nn.utils.clip_grad_norm_(parameters, settings.grad_clip)
        state.optimizer.step()
        if is_logged:
            self.norms.after_update()
        if state.ema_model is not None and settings.ema_decay is not None:
            # The average starts as the model after the first step.
            update_ema(state.ema_model, state.model, settings.ema_decay if state.step else 0.0)
        state.schedule.step()
        state.step += 1
        # Benchmarks never log, so their steps wrap around in the window.
        index = (state.steps_in_window - 1) % len(state.losses)
        state.losses[index] = batch.share * loss.detach()
        predictions = self.task.predictions(output.detach())
        state.scores[index] = batch.counts * self.task.scores(predictions, batch.targets).sum()
        state.questions += batch.whole_size

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor | float]:
        """The model's output (B, ...) and the weighted sum of the added losses."""
        inputs = (batch.features, batch.questions, batch.image_of_question)
        with autocast(self.train_loader.device, self.precision):
            result = self.network(*inputs, **self.added.options)
        if not self.added.options:
            return result, 0.0
        output, *others = result
        return output, self.added.weighted(iter(others), batch)

    def _evaluate(self, write: Callable[[str], None]) -> None:
        """Evaluate the model and save the state.

        After a request to stop, save the state and leave the evaluation to the resumed run.
        """
        state = self.state
        self._check_finite()
        try:
            scores = self._scores(self.val_loader, self.val_rows)
            val = float(scores.double().mean())
            train = float(self._scores(self.train_loader, self.train_rows).double().mean())
        except PredictionStoppedError:
            self._save(self.layout.last_checkpoint)
            raise self._interrupted() from None
        record: dict[str, Any] = {
            self._val_metric: val, f"train_{self.task.metric}": train, "gap": train - val,
        }  # fmt: skip
        state.evaluated = state.step
        state.history.append({"step": state.step, **record})
        if self.val_types is not None:
            record["val_by_type"] = type_means(scores, *self.val_types)
        is_best = val > state.best_score
        if is_best:
            state.best_score, state.best_step = val, state.step
            state.evaluations_since_best = 0
        else:
            state.evaluations_since_best += 1
        self._log({"epoch": state.sampler.epoch, **record})
        if self.snapshots and (snapshot := self.snapshots.take(state.eval_model)):
            for logger in self.loggers:
                logger.show(state.step, snapshot)
        state.finished = state.has_ended(self.settings.patience)
        best = [self.layout.best_checkpoint] if is_best else []
        kept = [self.layout.kept_checkpoint(step) for step in self._kept_steps()]
        if self.layout.kept_checkpoint(state.step) in kept:
            best.append(self.layout.kept_checkpoint(state.step))
        self._save(*best, self.layout.last_checkpoint)
        if processes.is_first():
            for path in self.layout.kept_checkpoints():
                if path not in kept:
                    path.unlink()
        # Print after saving: a closed pipe ends the run here.
        write(
            f"step {state.step}: validation {self.task.score_title} {100 * val:.2f}%, "
            f"train sample {100 * train:.2f}%, "
            f"best {100 * state.best_score:.2f}% at step {state.best_step}"
        )
        if warning := overfitting_warning(state.history, self._val_metric):
            write(warning)

    def _kept_steps(self) -> list[int]:
        """The steps of the ``keep_best`` best evaluations, the earlier ones of equal scores.

        Their checkpoints are kept beside ``best.pt``; none are if ``keep_best`` is 1.
        """
        count = self.settings.keep_best
        if count == 1:
            return []
        ranked = sorted(self.state.history, key=lambda record: -record[self._val_metric])
        return [int(record["step"]) for record in ranked[:count]]

    def _save(self, *paths: Path) -> None:
        """Write the state to checkpoints, after the metrics that it counts are on the disk."""
        self._check_finite()
        self.state.seconds = time.monotonic() - self._started
        for logger in self.loggers:
            logger.flush()
        content = {**self.metadata, **self.state.state_dict()}
        if processes.is_first():
            with self.stop.saving():
                for path in paths:
                    save_checkpoint(path, content)
        self._saved = time.monotonic()

    def _check_finite(self) -> None:
        self._sum_window()
        self.finite.check()

    def _sum_window(self) -> None:
        """Sum losses and scores over processes, for the steps since the last sum."""
        state = self.state
        for values in (state.losses, state.scores):
            processes.sum_over_processes(values[self._summed : state.steps_in_window])
        self._summed = state.steps_in_window

    def _scores(self, loader: Loader, rows: Tensor) -> Tensor:
        """The score (M,) of the prediction for each question."""
        targets = loader.read_targets(rows).cpu()
        predictions = predict(
            self.state.eval_model, loader, rows, precision=self.precision,
            progress=False, stop=lambda: self.stop.requested,
        )  # fmt: skip
        return self.task.scores(predictions, targets)

    def _log_window(self, meter: ThroughputMeter) -> dict[str, str]:
        """Log the means since the last record; return the values that the progress bar shows."""
        state = self.state
        self._sum_window()
        self.finite.check_losses()
        count = state.steps_in_window
        record = {
            "loss": float(state.losses.double().sum()) / count,
            self.task.metric: float(state.scores.sum()) / state.questions,
            **meter.take(state.questions),
        }
        state.losses.zero_()
        state.scores.zero_()
        state.questions, state.logged, self._summed = 0, state.step, 0
        lr = state.optimizer.param_groups[0]["lr"]
        self._log({"epoch": state.sampler.epoch, "lr": lr, **record, **self.norms.take()})
        return {
            "loss": f"{record['loss']:.3f}",
            self.task.score_title: f"{100 * record[self.task.metric]:.1f}",
            "qps": f"{record['questions_per_second']:.0f}",
            "waited": f"{100 * record['waited']:.0f}%",
        }

    def _log(self, record: dict[str, Any]) -> None:
        state = self.state
        state.seconds = time.monotonic() - self._started
        state.records += 1
        for logger in self.loggers:
            logger.log({"step": state.step, **record, "seconds": round(state.seconds, 3)})


def _over_processes(
    model: nn.Module, settings: TrainerSettings
) -> tuple[nn.Module, SharedStatistics | None]:
    """Wrap the model so that all processes train it together.

    Returns the wrapped model, and the statistics that its batch norms share, or None if they share
    none. A single process trains the model itself.
    """
    if processes.count() == 1 or not any(w.requires_grad for w in model.parameters()):
        return model, None
    shared = share_statistics(model) if settings.sync_batch_norm else None
    # If processes do not share statistics, those of the first are copied to the others.
    options: dict[str, Any] = {_COPY_BUFFERS: shared is None}
    return DistributedDataParallel(model, **options), shared


def _sample(rows: Tensor, count: int | None, seed: int) -> Tensor:
    """A sorted random sample of ``count`` rows, or all rows; a seed gives the same sample."""
    if count is None or count >= len(rows):
        return rows
    generator = torch.Generator().manual_seed(seed)
    return rows[torch.randperm(len(rows), generator=generator)[:count]].sort().values
