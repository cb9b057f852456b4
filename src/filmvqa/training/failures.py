"""Failures of training: losses or weights that are not finite, out of memory, unused weights."""

from __future__ import annotations

import json
import math
import sys

from torch import nn
from tqdm import tqdm

from filmvqa.evaluation.batches import Loader
from filmvqa.system import processes
from filmvqa.system.disk import format_bytes
from filmvqa.system.errors import UserError, warn
from filmvqa.system.files import write_file
from filmvqa.system.layout import RunLayout
from filmvqa.training.settings import TrainerSettings
from filmvqa.training.state import RunState


class FiniteCheck:
    """Checks losses and weights; an error names the step and lists its questions.

    Both checks wait for the device.
    """

    def __init__(self, state: RunState, loader: Loader, layout: RunLayout) -> None:
        self._state, self._loader, self._layout = state, loader, layout

    def check_losses(self) -> None:
        """Raise ``UserError`` if a loss since the last record is not finite."""
        if self._state.questions == 0:
            return
        count = self._state.steps_in_window
        for k, loss in enumerate(self._state.losses[:count].tolist()):
            if not math.isfinite(loss):
                raise self._error(f"the loss is {loss}", self._state.step - count + 1 + k)

    def check(self) -> None:
        """Raise ``UserError`` if a loss or a weight is not finite."""
        self.check_losses()
        for name, weight in self._state.model.named_parameters():
            if not weight.isfinite().all():
                raise self._error(f"{name} is not finite", self._state.step)

    def _error(self, problem: str, step: int) -> UserError:
        """Write the questions of the step to ``not_finite.json``; return the error to raise."""
        sampler, questions = self._state.sampler, self._loader.questions
        batches_taken = sampler.epoch * sampler.batches_per_epoch + sampler.batch
        epoch, batch = divmod(
            batches_taken - 1 - (self._state.step - step), sampler.batches_per_epoch
        )
        rows = sampler.rows(epoch, batch)
        record = {
            "step": step, "epoch": epoch, "what": problem, "questions": str(questions.path),
            "rows": questions.rows[rows].tolist(), "images": questions.images[rows].tolist(),
        }  # fmt: skip
        if processes.is_first():
            write_file(self._layout.not_finite, json.dumps(record) + "\n")
        saved = self._layout.last_checkpoint.exists()
        kept = "last.pt of an earlier step is kept" if saved else "nothing was saved yet"
        return UserError(
            f"{self._layout.folder}: {problem} at step {step}; the {len(rows)} questions of its "
            f"batch are in {self._layout.not_finite.name}, {kept}; in a new run lower optim.lr, "
            "set trainer.grad_clip=1.0 or trainer.precision=float32"
        )


def describe_memory_use(
    state: RunState, settings: TrainerSettings, loader: Loader, layout: RunLayout
) -> str:
    """The message for a training step that runs out of memory: its needs and the remedies."""
    store = loader.store
    gradients = sum(w.nbytes for w in state.model.parameters() if w.requires_grad)
    static = state.num_bytes + gradients
    resident = store.num_bytes if store.placement == "device" else 0
    images = -(-settings.batch_size // settings.questions_per_image)
    features = 4 * images * math.prod(store.shape)
    # Another store computes the same, so the run can be resumed with it.
    elsewhere = "memory" if store.device.type == "cuda" else "stream"
    resume = f"resume with store={elsewhere}, or " if resident else ""
    return (
        f"{layout.folder}: out of memory on {store.device} at step {state.step + 1}: weights, "
        f"gradients and optimizer take about {format_bytes(static)}, the features held there "
        f"{format_bytes(resident)}, those of a batch of {settings.batch_size} questions up to "
        f"{format_bytes(features)}, and activations many times that; {resume}in a new run "
        "(run=<name>) lower trainer.batch_size or raise trainer.questions_per_image"
    )


def warn_of_untrained(model: nn.Module) -> None:
    """Warn of trainable weights without a gradient, which the loss does not depend on."""
    names = [n for n, p in model.named_parameters() if p.requires_grad and p.grad is None]
    if names and processes.is_first():
        more = f" and {len(names) - 5} more" if len(names) > 5 else ""
        with tqdm.external_write_mode(file=sys.stderr):  # hides the bar meanwhile
            warn(f"no gradient reaches {', '.join(names[:5])}{more}: the loss does not use them")
