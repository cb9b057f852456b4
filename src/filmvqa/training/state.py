"""The object that holds everything that changes during training."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import get_ema_multi_avg_fn

from filmvqa.models.encoder import QuestionEncoder
from filmvqa.questions.sampler import EpochSampler
from filmvqa.system import processes
from filmvqa.system.determinism import random_state, restore_random_state, seed_process
from filmvqa.tasks.protocol import task_of
from filmvqa.training.optimizer import build_optimizer, build_schedule
from filmvqa.training.settings import OptimSettings, TrainerSettings


@dataclass
class RunState:
    """Everything that changes during training; a checkpoint is this state and the run's metadata.

    Attributes
    ----------
    total_steps : int
        Number of steps unless the run ends early; 0 for a model without trainable weights.
    log_every : int
        Steps between records of the training loss.
    losses, scores : Tensor
        (log_every,) on the device: loss and sum of the predictions' scores (for answers the number
        of correct ones) of each step since ``logged``.
    questions : int
        Number of questions of these steps.
    logged : int
        Step of the last record of the training loss in ``metrics.jsonl``.
    ema_model : Module or None
        The exponential moving average of the model.
    evaluated : int
        Step of the last evaluation.
    records : int
        Number of records in ``metrics.jsonl``.
    environments : list of dict
        The environments of the run, each with the step from which it was used.
    """

    model: nn.Module
    optimizer: Optimizer
    schedule: LambdaLR
    sampler: EpochSampler
    total_steps: int
    log_every: int
    losses: Tensor
    scores: Tensor
    ema_model: nn.Module | None = None
    step: int = 0
    best_score: float = -1.0
    best_step: int = 0
    evaluated: int = -1
    evaluations_since_best: int = 0
    finished: bool = False
    seconds: float = 0.0
    records: int = 0
    questions: int = 0
    logged: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    environments: list[dict[str, Any]] = field(default_factory=list)

    _PROGRESS = (
        "step", "best_score", "best_step", "evaluated", "evaluations_since_best", "finished",
        "seconds", "records", "questions", "logged", "history", "environments",
    )  # fmt: skip
    #: Attributes with another name in checkpoints, from when all scores were accuracies.
    _SAVED_AS: ClassVar[dict[str, str]] = {"best_score": "best_accuracy", "scores": "correct"}

    @property
    def eval_model(self) -> nn.Module:
        """The model that is evaluated: the averaged one if there is one."""
        return self.model if self.ema_model is None else self.ema_model

    @property
    def steps_in_window(self) -> int:
        """Number of steps since the last record of the training loss."""
        return self.step - self.logged

    @property
    def device(self) -> torch.device:
        """The model's device."""
        return self.losses.device

    def has_ended(self, patience: int | None) -> bool:
        """Whether no step is left, or ``patience`` evaluations brought no better score."""
        if patience is not None and self.evaluations_since_best >= patience:
            return True
        return self.step >= self.total_steps and self.evaluated == self.step

    @property
    def num_bytes(self) -> int:
        """Approximate size of a checkpoint: weights, averaged weights, Adam's two moments."""
        weights: int = sum(t.nbytes for t in self.model.state_dict().values())
        trained = sum(w.nbytes for w in self.model.parameters() if w.requires_grad)
        return (1 if self.ema_model is None else 2) * weights + 2 * trained

    def state_dict(self) -> dict[str, Any]:
        """The state as tensors and plain data; all processes must call it."""
        first, *others = processes.gathered(random_state(self.device))
        return {
            "weights": self.model.state_dict(),
            "ema_weights": None if self.ema_model is None else self.ema_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {"last_epoch": self.schedule.last_epoch},
            "sampler": self.sampler.state_dict(),
            "random": first,
            "random_of_others": others,
            "window": {"losses": self.losses, "correct": self.scores},
            "progress": {
                self._SAVED_AS.get(name, name): getattr(self, name) for name in self._PROGRESS
            },
        }

    def load_state_dict(self, state: dict[str, Any]) -> int:
        """Restore a saved state, random generators included.

        Returns the result of the sampler's ``load_state_dict``.
        """
        self.model.load_state_dict(state["weights"])
        if self.ema_model is not None:
            self.ema_model.load_state_dict(state["ema_weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.last_epoch = state["schedule"]["last_epoch"]
        recut_rows = self.sampler.load_state_dict(state["sampler"])
        progress, window = state["progress"], state["window"]
        if "logged" not in progress:  # earlier versions logged at multiples of log_every
            unlogged = (progress["step"] - 1) % len(window["losses"]) + 1
            progress = progress | {
                "logged": progress["step"] - (unlogged if progress["questions"] else 0)
            }
        for name in self._PROGRESS:
            setattr(self, name, progress[self._SAVED_AS.get(name, name)])
        # If log_every changed, the next record covers more or fewer steps.
        next_record = (self.step // self.log_every + 1) * self.log_every
        count, size = self.steps_in_window, max(self.log_every, next_record - self.logged)
        for name in ("losses", "scores"):
            values = getattr(self, name).new_zeros(size)
            values[:count] = window[self._SAVED_AS.get(name, name)][:count]
            setattr(self, name, values)
        states = [state["random"], *state.get("random_of_others", [])]
        if processes.rank() < len(states):
            restore_random_state(states[processes.rank()], self.device)
        else:  # the run was saved by fewer processes
            seed_process(self.step)
        return recut_rows


def build_state(
    model: nn.Module, optim: OptimSettings, settings: TrainerSettings, sampler: EpochSampler
) -> RunState:
    """Build the state before the first step; compile the model if the settings say so."""
    optimizer = build_optimizer(model, optim)
    trains = any(weight.requires_grad for weight in model.parameters())
    total = settings.total_steps(sampler.batches_per_epoch) if trains else 0
    schedule = build_schedule(optimizer, optim, total)
    ema_model = None if settings.ema_decay is None else _copied(model)
    if settings.compile:
        compile_parts(model)
    device = next(chain(model.parameters(), model.buffers())).device
    losses = torch.zeros(settings.log_every, device=device)
    dtype = task_of(model).score_dtype
    scores = torch.zeros(settings.log_every, dtype=dtype, device=device)
    return RunState(
        model, optimizer, schedule, sampler, total, settings.log_every, losses, scores, ema_model
    )


def _copied(model: nn.Module) -> nn.Module:
    """Copy a model. cuDNN needs a recurrent network's weights in contiguous memory again."""
    copied = copy.deepcopy(model)
    for module in copied.modules():
        if isinstance(module, nn.RNNBase):
            module.flatten_parameters()
    return copied


@torch.no_grad()
def update_ema(ema_model: nn.Module, model: nn.Module, decay: float) -> None:
    """Update the exponential moving average of a model's weights; copy its buffers.

    ``torch.optim.swa_utils.AveragedModel`` would synchronise with the device at every step.
    """
    update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    update(list(ema_model.parameters()), list(model.parameters()), 0)
    if buffers := list(model.buffers()):
        torch._foreach_copy_(list(ema_model.buffers()), buffers)


def compile_parts(model: nn.Module, backend: str = "inductor") -> None:
    """Compile each part of a model in place, except the encoder, whose loops vary by batch."""
    for part in model.children():
        if not isinstance(part, QuestionEncoder):
            for module in part if isinstance(part, nn.ModuleList) else [part]:
                module.compile(dynamic=True, backend=backend)
