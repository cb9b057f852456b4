"""The training loop, and the one object that owns all that changes in it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from filmvqa.data.loader import Batch, EpochSampler, Loader
from filmvqa.device import PRECISIONS, autocast
from filmvqa.errors import UserError
from filmvqa.evaluation.accuracy import question_kinds, type_accuracies
from filmvqa.evaluation.predictions import predict
from filmvqa.training.checkpoint import save_checkpoint
from filmvqa.training.loggers import Logger
from filmvqa.training.overfitting import overfitting
from filmvqa.training.transfer import training_mode


@dataclass(frozen=True)
class TrainerSettings:
    """How long and how to train.

    ``max_steps`` ends training if ``max_epochs`` does not; ``eval_every`` counts steps (None:
    an epoch); ``patience`` evaluations without a better validation accuracy stop it early;
    ``train_sample`` training questions are scored beside validation, to show overfitting;
    ``val_sample`` validation questions are scored while training (None: all); ``average`` keeps
    an exponential moving average of the weights with that decay, which is what is scored;
    ``penalty`` weighs the model's own penalty (FiLM's: the deviations of γ and β) in the loss;
    ``questions_per_image`` above 1 draws images and takes so many of their questions, so that
    what does not depend on the question is done once for them; ``channels_last`` is the memory
    order of features; ``compile`` lets torch.compile make what comes after the encoder.
    """

    batch_size: int = 64
    max_epochs: int = 80
    max_steps: int | None = None
    eval_every: int | None = None
    log_every: int = 50
    patience: int | None = 5
    grad_clip: float | None = None
    precision: str = "auto"
    questions_per_image: int = 1
    channels_last: bool = True
    compile: bool = False
    train_sample: int = 2000
    val_sample: int | None = None
    average: float | None = None
    penalty: float = 0.0

    def __post_init__(self) -> None:
        if self.precision not in PRECISIONS:
            raise UserError(
                f"trainer.precision={self.precision!r}; choose from {', '.join(PRECISIONS)}"
            )
        for name in (
            "batch_size",
            "max_epochs",
            "max_steps",
            "eval_every",
            "log_every",
            "patience",
            "questions_per_image",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"trainer.{name}={value}; must be at least 1")
        if self.average is not None and not 0 < self.average < 1:
            raise UserError(f"trainer.average={self.average}; must lie between 0 and 1")
        if self.penalty < 0:
            raise UserError(f"trainer.penalty={self.penalty}; must not be negative")

    def total_steps(self, batches_per_epoch: int) -> int:
        """Steps of a run that nothing stops early."""
        whole = self.max_epochs * batches_per_epoch
        return whole if self.max_steps is None else min(whole, self.max_steps)


@dataclass
class RunState:
    """All that changes while training; a checkpoint is this and what never changes."""

    model: nn.Module
    optimizer: Optimizer
    schedule: LambdaLR
    sampler: EpochSampler
    average: nn.Module | None = None
    step: int = 0
    best_accuracy: float = -1.0
    best_step: int = 0
    evaluations_since_best: int = 0
    finished: bool = False
    seconds: float = 0.0
    history: list[dict[str, float]] = field(default_factory=list)

    _PLAIN = (
        "step", "best_accuracy", "best_step", "evaluations_since_best", "finished", "seconds",
        "history",
    )  # fmt: skip

    @property
    def scored(self) -> nn.Module:
        """The model that evaluations score."""
        return self.model if self.average is None else self.average

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data."""
        return {
            "weights": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {"last_epoch": self.schedule.last_epoch},
            "sampler": self.sampler.state_dict(),
            "random": random_state(),
            "progress": {name: getattr(self, name) for name in self._PLAIN},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go back to a saved state, every random generator included."""
        self.model.load_state_dict(state["weights"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.last_epoch = state["schedule"]["last_epoch"]
        self.sampler.load_state_dict(state["sampler"])
        for name in self._PLAIN:
            setattr(self, name, state["progress"][name])
        torch.set_rng_state(state["random"]["cpu"])
        if torch.cuda.is_available() and state["random"]["cuda"]:
            torch.cuda.set_rng_state_all(state["random"]["cuda"])


@torch.no_grad()
def follow(average: nn.Module, model: nn.Module, decay: float) -> None:
    """One step of the exponential moving average of a model's weights; its buffers are copied.

    torch's own ``AveragedModel`` asks the device at every step whether it is the first.
    """
    torch._foreach_lerp_(list(average.parameters()), list(model.parameters()), 1.0 - decay)
    if buffers := list(model.buffers()):
        torch._foreach_copy_(list(average.buffers()), buffers)


def random_state() -> dict[str, Any]:
    """The states of torch's generators; nothing else draws random numbers while training."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


class Trainer:
    """Trains ``state.model`` on ``train`` and keeps the best on ``val`` in ``folder``.

    ``constant`` is what each checkpoint holds besides the state: model name and options,
    configuration, vocabulary. ``val_rows`` are the validation questions that count. A model
    without weights to train is only evaluated.
    """

    def __init__(
        self,
        state: RunState,
        settings: TrainerSettings,
        train: Loader,
        val: Loader,
        folder: Path,
        constant: dict[str, Any],
        loggers: list[Logger],
        val_rows: Tensor,
        sample_seed: int = 0,
    ) -> None:
        self.state, self.settings = state, settings
        self.train_loader, self.val_loader = train, val
        self.folder, self.constant, self.loggers = folder, constant, loggers
        self.train_rows = _sample(state.sampler.available, settings.train_sample, sample_seed)
        self.val_rows = _sample(val_rows, settings.val_sample, sample_seed)
        kinds = question_kinds(val.questions)
        self.val_kinds = None if kinds is None else kinds[self.val_rows]

    def fit(self) -> float:
        """Train to the end; returns the best validation accuracy."""
        state, settings = self.state, self.settings
        trains = any(w.requires_grad for w in state.model.parameters())
        total = settings.total_steps(state.sampler.batches_per_epoch) if trains else 0
        eval_every = settings.eval_every or state.sampler.batches_per_epoch
        window = _Window(self.train_loader)
        started = time.monotonic() - state.seconds
        training_mode(state.model)
        if total == 0:
            self._evaluate(print)
            self._after_evaluation(total)
        with tqdm(total=total, initial=state.step, desc="train", unit="step") as bar:
            for batch in self.train_loader.forever(state.sampler):
                if state.finished or state.step >= total:
                    break
                window.add(*self.step(batch))
                bar.update()
                if state.step % settings.log_every == 0 or state.step == total:
                    state.seconds = time.monotonic() - started
                    record = window.take()
                    bar.set_postfix(
                        loss=f"{record['loss']:.3f}",
                        acc=f"{100 * record['accuracy']:.1f}",
                        qps=f"{record['questions_per_second']:.0f}",
                        waited=f"{100 * record['waited']:.0f}%",
                        refresh=False,  # as often as the bar itself
                    )
                    lr = state.optimizer.param_groups[0]["lr"]
                    self._log({"epoch": state.sampler.epoch, "lr": lr, **record})
                if state.step % eval_every == 0 or state.step == total:
                    self._evaluate(bar.write)
                    state.seconds = time.monotonic() - started
                    self._after_evaluation(total)
                    window.restart()
        return state.best_accuracy

    def step(self, batch: Batch) -> tuple[Tensor, Tensor, int]:
        """One step of training: its loss and number of right answers, on the device, and its
        number of questions."""
        state = self.state
        if batch.answers is None:
            raise UserError(f"{self.train_loader.questions.path}: has no answers to train on")
        with autocast(self.train_loader.device, self.settings.precision):
            logits = state.model(batch.features, batch.questions, batch.image_of_question)
        loss = F.cross_entropy(logits.float(), batch.answers)
        weighed = self.settings.penalty * self._penalty() if self.settings.penalty else 0.0
        state.optimizer.zero_grad(set_to_none=True)
        (loss + weighed).backward()  # type: ignore[no-untyped-call]
        if self.settings.grad_clip is not None:
            nn.utils.clip_grad_norm_(state.model.parameters(), self.settings.grad_clip)
        state.optimizer.step()
        if state.average is not None and self.settings.average is not None:
            # It begins as the model after the first step.
            follow(state.average, state.model, self.settings.average if state.step else 0.0)
        state.schedule.step()
        state.step += 1
        right = (logits.argmax(1) == batch.answers).sum()
        return loss.detach(), right, len(batch.answers)

    def _penalty(self) -> Tensor:
        penalty: Tensor | None = getattr(self.state.model, "penalty", lambda: None)()
        if penalty is None:
            raise UserError(
                "trainer.penalty: this model has no γ and β whose deviations to penalise"
            )
        return penalty

    def _evaluate(self, write: Callable[[str], None]) -> None:
        state = self.state
        right = self._right(self.val_loader, self.val_rows)
        val = float(right.double().mean())
        train = float(self._right(self.train_loader, self.train_rows).double().mean())
        record: dict[str, Any] = {
            "val_accuracy": val, "train_accuracy": train, "gap": train - val,
        }  # fmt: skip
        state.history.append({"step": state.step, **record})
        if self.val_kinds is not None:
            record["val_by_type"] = type_accuracies(right, self.val_kinds)
        if val > state.best_accuracy:
            state.best_accuracy, state.best_step = val, state.step
            state.evaluations_since_best = 0
        else:
            state.evaluations_since_best += 1
        self._log({"epoch": state.sampler.epoch, **record})
        write(
            f"step {state.step}: validation {100 * val:.2f}%, train sample {100 * train:.2f}%, "
            f"best {100 * state.best_accuracy:.2f}% at step {state.best_step}"
        )
        if warning := overfitting(state.history):
            write(warning)

    def _after_evaluation(self, total: int) -> None:
        state, patience = self.state, self.settings.patience
        waited = patience is not None and state.evaluations_since_best >= patience
        state.finished = waited or state.step >= total
        content = {**self.constant, **state.state_dict()}
        if state.evaluations_since_best == 0:
            save_checkpoint(self.folder / "best.pt", content)
        save_checkpoint(self.folder / "last.pt", content)

    def _right(self, loader: Loader, rows: Tensor) -> Tensor:
        answers = loader.questions.answers
        if answers is None:
            raise UserError(f"{loader.questions.path}: has no answers to compare with")
        found = predict(
            self.state.scored, loader, rows, precision=self.settings.precision, progress=False
        )
        return found == answers[rows]

    def _log(self, record: dict[str, Any]) -> None:
        for logger in self.loggers:
            logger.log({"step": self.state.step, **record, "seconds": round(self.state.seconds, 3)})


class _Window:
    """Means since the last log line, summed on the device so that no step waits for it; the rate,
    and the share of the time in which training waited for its batches."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self.restart()

    def restart(self) -> None:
        self._loss = torch.zeros((), device=self._loader.device)
        self._right = torch.zeros((), dtype=torch.int64, device=self._loader.device)
        self._steps = self._questions = 0
        self._started, self._waited = time.monotonic(), self._loader.waited

    def add(self, loss: Tensor, right: Tensor, questions: int) -> None:
        self._loss += loss
        self._right += right
        self._steps += 1
        self._questions += questions

    def take(self) -> dict[str, float]:
        record = {
            "loss": float(self._loss) / self._steps,
            "accuracy": float(self._right) / self._questions,
        }
        # Only now: reading the sums has waited for the device.
        seconds = time.monotonic() - self._started
        record["questions_per_second"] = self._questions / seconds
        record["waited"] = (self._loader.waited - self._waited) / seconds
        if self._loader.store.kind == "stream":
            record["megabytes_read_per_second"] = self._loader.store.rate / 1e6
        self.restart()
        return record


def _sample(rows: Tensor, wanted: int | None, seed: int) -> Tensor:
    """All of the rows, or ``wanted`` of them, sorted, the same for the same seed."""
    if wanted is None or wanted >= len(rows):
        return rows
    generator = torch.Generator().manual_seed(seed)
    return rows[torch.randperm(len(rows), generator=generator)[:wanted]].sort().values
