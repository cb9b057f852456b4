"""Running a model over questions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from tqdm import tqdm

from filmvqa.evaluation.batches import Loader
from filmvqa.models.fast.precision import choose_precision
from filmvqa.system import processes
from filmvqa.system.devices import autocast
from filmvqa.tasks.protocol import task_of


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
    """Predictions (N, ...) on the CPU, of the given rows or of all, in their order: the most likely
    answers (N,), or what else the model's task keeps of its output.

    The rest of it is not kept; the model is left in its mode. Several processes share the batches,
    which are those of one process, and all of them have all predictions.

    Parameters
    ----------
    stop
        Called before each batch; True ends the prediction, in all processes once they are at their
        end.

    Raises
    ------
    PredictionStoppedError
        If ``stop`` returned True.
    """
    questions = loader.questions
    rows = torch.arange(len(questions)) if rows is None else rows
    # By image, so that what does not depend on the question is computed once an image.
    order = torch.argsort(questions.images[rows], stable=True)
    batches = torch.split(order, loader.batch_size)
    part = torch.cat([order[:0], *batches[processes.part_of(len(batches))]])
    task = task_of(model)
    own: list[Tensor] = []
    stopped = False
    chosen = choose_precision(model, loader.device, precision)
    with (
        evaluating(model),
        tqdm(total=len(part), desc="answer", unit="q", disable=not progress, leave=False) as bar,
    ):
        for batch in loader.sequential(rows[part]):
            if stopped := stop():
                break
            with autocast(loader.device, chosen):
                output = model(batch.features, batch.questions, batch.image_of_question)
            own.append(task.predictions(output))
            bar.update(len(batch.index))
    of_all = processes.gathered((stopped, own[0][0].shape if own else None))
    if any(stopped for stopped, _ in of_all):
        raise PredictionStoppedError
    shape = next((shape for _, shape in of_all if shape is not None), ())
    predictions = torch.zeros((len(rows), *shape), dtype=task.prediction_dtype)
    if own:
        predictions[part] = torch.cat(own).cpu()
    return processes.sum_over_processes(predictions)
