"""The one object that owns all that changes while training."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torch.optim.swa_utils import get_ema_multi_avg_fn

from filmvqa.data.sampler import EpochSampler
from filmvqa.determinism import random_state, restore_random_state
from filmvqa.models.encoder import QuestionEncoder
from filmvqa.training.optimizer import build_optimizer, build_schedule
from filmvqa.training.settings import OptimSettings, TrainerSettings


@dataclass
class RunState:
    """What changes while training; a checkpoint is this and the run's metadata.

    Attributes
    ----------
    losses, correct : Tensor
        (log_every,) loss and number of correct answers of the steps since the last record of them
        in ``metrics.jsonl``, on the device; ``questions`` counts their questions.
    ema_model : Module or None
        The exponential moving average of the model.
    evaluated : int
        Step of the last evaluation.
    records : int
        Number of all records of ``metrics.jsonl``.
    environments : list of dict
        What the run ran in, and from which step on.
    """

    model: nn.Module
    optimizer: Optimizer
    schedule: LambdaLR
    sampler: EpochSampler
    losses: Tensor
    correct: Tensor
    ema_model: nn.Module | None = None
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

    _PROGRESS = (
        "step", "best_accuracy", "best_step", "evaluated", "evaluations_since_best", "finished",
        "seconds", "records", "questions", "history", "environments",
    )  # fmt: skip

    @property
    def eval_model(self) -> nn.Module:
        """The model that evaluations score."""
        return self.model if self.ema_model is None else self.ema_model

    @property
    def steps_in_window(self) -> int:
        """Number of steps since the last record of their losses."""
        return (self.step - 1) % len(self.losses) + 1

    @property
    def num_bytes(self) -> int:
        """Approximate size of a checkpoint: weights, averaged ones, Adam's two moments."""
        weights: int = sum(t.nbytes for t in self.model.state_dict().values())
        trained = sum(w.nbytes for w in self.model.parameters() if w.requires_grad)
        return (1 if self.ema_model is None else 2) * weights + 2 * trained

    def state_dict(self) -> dict[str, Any]:
        """Tensors and plain data."""
        return {
            "weights": self.model.state_dict(),
            "ema_weights": None if self.ema_model is None else self.ema_model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "schedule": {"last_epoch": self.schedule.last_epoch},
            "sampler": self.sampler.state_dict(),
            "random": random_state(),
            "window": {"losses": self.losses, "correct": self.correct},
            "progress": {name: getattr(self, name) for name in self._PROGRESS},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore a saved state, every random generator included."""
        self.model.load_state_dict(state["weights"])
        if self.ema_model is not None:
            self.ema_model.load_state_dict(state["ema_weights"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.last_epoch = state["schedule"]["last_epoch"]
        self.sampler.load_state_dict(state["sampler"])
        for name in self._PROGRESS:
            setattr(self, name, state["progress"][name])
        self.losses.copy_(state["window"]["losses"])
        self.correct.copy_(state["window"]["correct"])
        restore_random_state(state["random"])


def build_state(
    model: nn.Module, optim: OptimSettings, settings: TrainerSettings, sampler: EpochSampler
) -> RunState:
    """The state before the first step; the model is compiled if the settings say so."""
    optimizer = build_optimizer(model, optim)
    total = settings.total_steps(sampler.batches_per_epoch)
    schedule = build_schedule(optimizer, optim, total)
    ema_model = None if settings.ema_decay is None else copy.deepcopy(model)
    if settings.compile:
        compile_parts(model)
    device = next(chain(model.parameters(), model.buffers())).device
    losses = torch.zeros(settings.log_every, device=device)
    correct = torch.zeros(settings.log_every, dtype=torch.int64, device=device)
    return RunState(model, optimizer, schedule, sampler, losses, correct, ema_model)


@torch.no_grad()
def update_ema(ema_model: nn.Module, model: nn.Module, decay: float) -> None:
    """One step of the exponential moving average of a model's weights; its buffers are copied.

    ``torch.optim.swa_utils.AveragedModel`` would synchronise with the device at every step.
    """
    update = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
    update(list(ema_model.parameters()), list(model.parameters()), 0)
    if buffers := list(model.buffers()):
        torch._foreach_copy_(list(ema_model.buffers()), buffers)


def compile_parts(model: nn.Module, backend: str = "inductor") -> None:
    """Compile each part of a model but the encoder, whose loops differ from batch to batch; names
    of weights stay as they are."""
    for part in model.children():
        if not isinstance(part, QuestionEncoder):
            for module in part if isinstance(part, nn.ModuleList) else [part]:
                module.compile(dynamic=True, backend=backend)
