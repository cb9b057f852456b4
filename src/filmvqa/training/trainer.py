"""The training loop, and the one object that owns all that changes in it."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from tqdm import tqdm

from filmvqa.checkpoint import save_checkpoint
from filmvqa.data.loader import Batch, EpochSampler, Loader
from filmvqa.devices import PRECISIONS, autocast
from filmvqa.disk import format_bytes
from filmvqa.errors import Interrupted, UserError
from filmvqa.evaluation.accuracy import question_kinds, type_accuracies
from filmvqa.evaluation.predictions import PredictionStoppedError, predict
from filmvqa.files import write_file
from filmvqa.memory import explained_out_of_memory
from filmvqa.training.loggers import Logger
from filmvqa.training.overfitting import overfitting
from filmvqa.training.stopping import StopRequest
from filmvqa.training.transfer import training_mode

#: Where the questions of a step that is not finite are listed.
NOT_FINITE = "not_finite.json"


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
    order of features; ``compile`` lets torch.compile make what comes after the encoder;
    ``save_minutes`` and ``save_steps`` say how often ``last.pt`` is written between evaluations
    (None: not so).
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
    save_minutes: float | None = 10.0
    save_steps: int | None = None

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
            "save_steps",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"trainer.{name}={value}; must be at least 1")
        if self.average is not None and not 0 < self.average < 1:
            raise UserError(f"trainer.average={self.average}; must lie between 0 and 1")
        if self.penalty < 0:
            raise UserError(f"trainer.penalty={self.penalty}; must not be negative")
        if self.save_minutes is not None and self.save_minutes <= 0:
            raise UserError(f"trainer.save_minutes={self.save_minutes}; must be above 0")

    def total_steps(self, batches_per_epoch: int) -> int:
        """Steps of a run that nothing stops early."""
        whole = self.max_epochs * batches_per_epoch
        return whole if self.max_steps is None else min(whole, self.max_steps)


@dataclass
class RunState:
    """All that changes while training; a checkpoint is this and what never changes.

    ``losses`` and ``right`` (log_every,) are those of the steps since the last record of them in
    ``metrics.jsonl``, on the device, and ``questions`` their questions; ``records`` counts all
    records of that file; ``evaluated`` is the step of the last evaluation; ``environments`` has
    what the run ran in, and from which step on.
    """

    model: nn.Module
    optimizer: Optimizer
    schedule: LambdaLR
    sampler: EpochSampler
    losses: Tensor
    right: Tensor
    average: nn.Module | None = None
    step: int = 0
    best_accuracy: float = -1.0
    best_step: int = 0
    evaluated: int = -1
    evaluations_since_best: int = 0
    finished: bool = False
    seconds: float = 0.0
    records: int = 0
    questions: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    environments: list[dict[str, Any]] = field(default_factory=list)

    _PLAIN = (
        "step", "best_accuracy", "best_step", "evaluated", "evaluations_since_best", "finished",
        "seconds", "records", "questions", "history", "environments",
    )  # fmt: skip

    @property
    def scored(self) -> nn.Module:
        """The model that evaluations score."""
        return self.model if self.average is None else self.average

    @property
    def num_bytes(self) -> int:
        """What a checkpoint takes, nearly: weights, averaged ones, Adam's two moments."""
        weights: int = sum(t.nbytes for t in self.model.state_dict().values())
        trained = sum(w.nbytes for w in self.model.parameters() if w.requires_grad)
        return (1 if self.average is None else 2) * weights + 2 * trained

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data."""
        return {
            "weights": self.model.state_dict(),
            "average": None if self.average is None else self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {"last_epoch": self.schedule.last_epoch},
            "sampler": self.sampler.state_dict(),
            "random": random_state(),
            "window": {"losses": self.losses, "right": self.right},
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
        self.losses.copy_(state["window"]["losses"])
        self.right.copy_(state["window"]["right"])
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
        trains = any(w.requires_grad for w in state.model.parameters())
        self.total = settings.total_steps(state.sampler.batches_per_epoch) if trains else 0
        self.stop = StopRequest()

    def fit(self) -> float:
        """Train to the end; returns the best validation accuracy.

        Raises
        ------
        Interrupted
            If a signal asked for an end, after saving.
        UserError
            If the loss or a weight is no longer finite, or memory does not suffice; ``last.pt``
            is then that of the last save.
        """
        state = self.state
        training_mode(state.model)
        self._started = time.monotonic() - state.seconds
        self._saved = time.monotonic()
        clock = _Clock(self.train_loader)
        batches = self.train_loader.forever(state.sampler)
        with (
            closing(batches),
            self.stop.listening(),
            explained_out_of_memory(self._memory),
            tqdm(total=self.total, initial=state.step, desc="train", unit="step") as bar,
        ):
            while not state.finished:
                if not self._evaluation_due():
                    self.step(next(batches))
                    bar.update()
                    if self._at(self.settings.log_every):
                        bar.set_postfix(self._log_window(clock), refresh=False)
                    if self.stop.asked or self._save_due():
                        self._save("last.pt")
                    if self.stop.asked:
                        raise self._interrupted()
                if self._evaluation_due():
                    with clock.paused():
                        self._evaluate(bar.write)
        return state.best_accuracy

    def _at(self, every: int) -> bool:
        return self.state.step == self.total or (
            self.state.step > 0 and self.state.step % every == 0
        )

    def _evaluation_due(self) -> bool:
        """Also after a resume from a checkpoint that was written before its step's evaluation."""
        every = self.settings.eval_every or self.state.sampler.batches_per_epoch
        return self._at(every) and self.state.evaluated < self.state.step

    def _save_due(self) -> bool:
        steps, minutes = self.settings.save_steps, self.settings.save_minutes
        if steps is not None and self.state.step % steps == 0:
            return True
        return minutes is not None and time.monotonic() - self._saved > 60 * minutes

    def _interrupted(self) -> Interrupted:
        return Interrupted(
            f"{self.folder}: stopped after step {self.state.step} of {self.total}, which is saved"
        )

    def step(self, batch: Batch) -> None:
        """One step of training; its loss and number of right answers are noted on the device."""
        state = self.state
        if batch.answers is None:
            raise UserError(f"{self.train_loader.questions.path}: has no answers to train on")
        with autocast(self.train_loader.device, self.settings.precision):
            logits, penalty = self._forward(batch)
        loss = F.cross_entropy(logits.float(), batch.answers)
        weighed = self.settings.penalty * penalty
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
        place = self._steps_in_window() - 1
        state.losses[place] = loss.detach()
        state.right[place] = (logits.argmax(1) == batch.answers).sum()
        state.questions += len(batch.answers)

    def _forward(self, batch: Batch) -> tuple[Tensor, Tensor | float]:
        """Logits (B, num_answers), and the model's penalty, 0 where the loss has none."""
        model, inputs = self.state.model, (batch.features, batch.questions, batch.image_of_question)
        if not self.settings.penalty:
            return model(*inputs), 0.0
        if not getattr(model, "has_film_penalty", False):
            raise UserError(
                "trainer.penalty: this model has no γ and β whose deviations to penalise"
            )
        logits, penalty = model(*inputs, return_penalty=True)
        return logits, penalty

    def _evaluate(self, write: Callable[[str], None]) -> None:
        """Score the model and save it; a request to stop saves it and leaves the score for the
        next time."""
        state = self.state
        self._check_finite()
        try:
            right = self._right(self.val_loader, self.val_rows)
            val = float(right.double().mean())
            train = float(self._right(self.train_loader, self.train_rows).double().mean())
        except PredictionStoppedError:
            self._save("last.pt")
            raise self._interrupted() from None
        record: dict[str, Any] = {
            "val_accuracy": val, "train_accuracy": train, "gap": train - val,
        }  # fmt: skip
        state.evaluated = state.step
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
        patience = self.settings.patience
        waited = patience is not None and state.evaluations_since_best >= patience
        state.finished = waited or state.step >= self.total
        self._save(*(["best.pt"] if state.evaluations_since_best == 0 else []), "last.pt")

    def _save(self, *names: str) -> None:
        """Write checkpoints of the state as it is, after the metrics that it counts."""
        self._check_finite()
        self.state.seconds = time.monotonic() - self._started
        for logger in self.loggers:
            logger.flush()
        content = {**self.constant, **self.state.state_dict()}
        for name in names:
            save_checkpoint(self.folder / name, content)
        self._saved = time.monotonic()

    def _right(self, loader: Loader, rows: Tensor) -> Tensor:
        answers = loader.questions.answers
        if answers is None:
            raise UserError(f"{loader.questions.path}: has no answers to compare with")
        found = predict(
            self.state.scored, loader, rows, precision=self.settings.precision, progress=False,
            stop=lambda: self.stop.asked,
        )  # fmt: skip
        return found == answers[rows]

    def _log_window(self, clock: _Clock) -> dict[str, str]:
        """Log the means since the last record; what of it the bar shows."""
        state = self.state
        self._check_losses()
        count = self._steps_in_window()
        record = {
            "loss": float(state.losses.double().sum()) / count,
            "accuracy": float(state.right.sum()) / state.questions,
            **clock.take(state.questions),
        }
        state.losses.zero_()
        state.right.zero_()
        state.questions = 0
        lr = state.optimizer.param_groups[0]["lr"]
        self._log({"epoch": state.sampler.epoch, "lr": lr, **record})
        return {
            "loss": f"{record['loss']:.3f}",
            "acc": f"{100 * record['accuracy']:.1f}",
            "qps": f"{record['questions_per_second']:.0f}",
            "waited": f"{100 * record['waited']:.0f}%",
        }

    def _log(self, record: dict[str, Any]) -> None:
        state = self.state
        state.seconds = time.monotonic() - self._started
        state.records += 1
        for logger in self.loggers:
            logger.log({"step": state.step, **record, "seconds": round(state.seconds, 3)})

    def _steps_in_window(self) -> int:
        return (self.state.step - 1) % self.settings.log_every + 1

    def _check_losses(self) -> None:
        """Raise ``UserError`` for the first loss since the last record that is not finite; only
        here, where the device is waited for anyway."""
        if self.state.questions == 0:
            return
        count = self._steps_in_window()
        for k, loss in enumerate(self.state.losses[:count].tolist()):
            if not math.isfinite(loss):
                raise self._not_finite(f"the loss is {loss}", self.state.step - count + 1 + k)

    def _check_finite(self) -> None:
        """Raise ``UserError`` rather than save or score what cannot be gone on with."""
        self._check_losses()
        for name, weight in self.state.model.named_parameters():
            if not weight.isfinite().all():
                raise self._not_finite(f"{name} is not finite", self.state.step)

    def _not_finite(self, what: str, step: int) -> UserError:
        """The error, after writing down which questions the step was about."""
        sampler, questions = self.state.sampler, self.train_loader.questions
        done = sampler.epoch * sampler.batches_per_epoch + sampler.batch
        epoch, batch = divmod(done - 1 - (self.state.step - step), sampler.batches_per_epoch)
        rows = sampler.rows(epoch, batch)
        record = {
            "step": step, "epoch": epoch, "what": what, "questions": str(questions.path),
            "rows": rows.tolist(), "images": questions.images[rows].tolist(),
        }  # fmt: skip
        write_file(self.folder / NOT_FINITE, json.dumps(record) + "\n")
        kept = "last.pt, of an earlier step, is kept" if (self.folder / "last.pt").exists() else (
            "nothing was saved yet"
        )  # fmt: skip
        return UserError(
            f"{self.folder}: {what} at step {step}; the {len(rows)} questions of its batch are in "
            f"{NOT_FINITE}, {kept}; in a new run lower optim.lr, set trainer.grad_clip=1.0 or "
            "trainer.precision=float32"
        )

    def _memory(self) -> str:
        """What a step needs, for who ran out of it."""
        state, settings, store = self.state, self.settings, self.train_loader.store
        gradients = sum(w.nbytes for w in state.model.parameters() if w.requires_grad)
        static = state.num_bytes + gradients
        resident = store.num_bytes if store.kind == "device" else 0
        images = -(-settings.batch_size // settings.questions_per_image)
        features = 4 * images * math.prod(store.shape)
        return (
            f"{self.folder}: out of memory on {store.device} at step {state.step + 1}: weights, "
            f"gradients and optimizer take about {format_bytes(static)}, the features that live "
            f"there {format_bytes(resident)}, those of a batch of {settings.batch_size} questions up to "
            f"{format_bytes(features)} and what is computed of them many times that; lower "
            "trainer.batch_size in a new run, or "
            + ("choose store=memory" if resident else "raise trainer.questions_per_image")
        )


class _Clock:
    """The rate since the last record, and the share of the time in which training waited for its
    batches."""

    def __init__(self, loader: Loader) -> None:
        self._loader = loader
        self._restart()

    def _restart(self) -> None:
        self._started, self._waited = time.monotonic(), self._loader.waited

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time that a block takes, and that in which it waits for batches."""
        started, waited = time.monotonic(), self._loader.waited
        yield
        self._started += time.monotonic() - started
        self._waited += self._loader.waited - waited

    def take(self, questions: int) -> dict[str, float]:
        """The figures for so many questions, in a record's terms."""
        seconds = time.monotonic() - self._started
        record = {
            "questions_per_second": questions / seconds,
            "waited": (self._loader.waited - self._waited) / seconds,
        }
        if self._loader.store.kind == "stream":
            record["megabytes_read_per_second"] = self._loader.store.rate / 1e6
        self._restart()
        return record


def _sample(rows: Tensor, wanted: int | None, seed: int) -> Tensor:
    """All of the rows, or ``wanted`` of them, sorted, the same for the same seed."""
    if wanted is None or wanted >= len(rows):
        return rows
    generator = torch.Generator().manual_seed(seed)
    return rows[torch.randperm(len(rows), generator=generator)[:wanted]].sort().values
