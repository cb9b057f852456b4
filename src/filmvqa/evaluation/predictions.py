"""Prediction: running a model over questions."""

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
    """Prediction was stopped: ``stop`` returned True."""


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A block in which a model is in evaluation mode, without gradients; then restore its mode."""
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
    """Predict for the rows (all if None), in their order.

    The model's mode is kept. Several processes share the batches, which are the same as those of a
    single process, and each gets all predictions.

    Parameters
    ----------
    stop
        Called before each batch. True stops the prediction, in all processes once each has stopped
        or is done.

    Returns
    -------
    Tensor
        (N, ...) on the CPU: the part of the output that the model's task keeps, for answers the
        index of the most probable one.

    Raises
    ------
    PredictionStoppedError
        If ``stop`` returned True.
    """
    questions = loader.questions
    rows = torch.arange(len(questions)) if rows is None else rows
    # Sorted by image, so that the parts that do not depend on the question run once per image.
    order = torch.argsort(questions.images[rows], stable=True)
    batches = torch.split(order, loader.batch_size)
    part = torch.cat([order[:0], *batches[processes.part_of(len(batches))]])
    task = task_of(model)
    outputs: list[Tensor] = []
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
            outputs.append(task.predictions(output))
            bar.update(len(batch.index))
    states = processes.gathered((stopped, outputs[0][0].shape if outputs else None))
    if any(stopped for stopped, _ in states):
        raise PredictionStoppedError
    shape = next((shape for _, shape in states if shape is not None), ())
    predictions = torch.zeros((len(rows), *shape), dtype=task.prediction_dtype)
    if outputs:
        predictions[part] = torch.cat(outputs).cpu()
    return processes.sum_over_processes(predictions)
