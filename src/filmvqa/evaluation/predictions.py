"""Running a model over questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from tqdm import tqdm

from filmvqa import processes
from filmvqa.data.batches import Loader
from filmvqa.devices import autocast
from filmvqa.settings import Precision, checked


class PredictionStoppedError(Exception):
    """Prediction ended early because ``stop`` returned True."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A block in which a model is in evaluation mode, and no gradients are kept; it is then left in
    its mode."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, training in modes:
            module.training = training


def predict(
    model: nn.Module,
    loader: Loader,
    rows: Tensor | None = None,
    *,
    precision: str = "auto",
    progress: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Most likely answers (N,) int64 on the CPU, of the given rows or of all, in their order.

    Logits are not kept; the model is left in its mode. Several processes share the batches, which
    are those of one process, and all of them have all answers.

    Parameters
    ----------
    stop
        Called before each batch; True ends the prediction, in all processes once they are at their
        end.

    Raises
    ------
    PredictionStoppedError
        If ``stop`` returned True.
    UserError
        For an unknown precision.
    """
    checked(precision, Precision, "precision")
    questions = loader.questions
    rows = torch.arange(len(questions)) if rows is None else rows
    # By image, so that what does not depend on the question is computed once an image.
    order = torch.argsort(questions.images[rows], stable=True)
    batches = torch.split(order, loader.batch_size)
    part = torch.cat([order[:0], *batches[processes.part_of(len(batches))]])
    answers = torch.empty(len(part), dtype=torch.int64, device=loader.device)
    done, stopped = 0, False
    with (
        evaluating(model),
        tqdm(total=len(part), desc="answer", unit="q", disable=not progress, leave=False) as bar,
    ):
        for batch in loader.sequential(rows[part]):
            if stopped := stop():
                break
            with autocast(loader.device, precision):
                logits = model(batch.features, batch.questions, batch.image_of_question)
            answers[done : done + len(batch.index)] = logits.argmax(1)
            done += len(batch.index)
            bar.update(len(batch.index))
    if any(processes.gathered(stopped)):
        raise PredictionStoppedError
    predictions = torch.zeros(len(rows), dtype=torch.int64)
    predictions[part] = answers.cpu()
    return processes.sum_over_processes(predictions)
