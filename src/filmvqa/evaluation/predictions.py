"""Running a model over questions."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn
from tqdm import tqdm

from filmvqa.data.loader import Loader
from filmvqa.devices import autocast


class PredictionStoppedError(Exception):
    """``stop`` said so."""


@torch.inference_mode()
def predict(
    model: nn.Module,
    loader: Loader,
    rows: Tensor | None = None,
    *,
    precision: str = "auto",
    progress: bool = True,
    stop: Callable[[], bool] = lambda: False,
) -> Tensor:
    """Most likely answers (N,) int64 on the CPU of the given rows, or of all, in their order.

    Logits are not kept; the model is left in the mode it was in.

    Raises
    ------
    PredictionStoppedError
        When ``stop``, which is asked before each batch, says so.
    """
    questions = loader.questions
    rows = torch.arange(len(questions)) if rows is None else rows
    # By image, so that what does not depend on the question is done once an image.
    order = torch.argsort(questions.images[rows], stable=True)
    found = torch.empty(len(rows), dtype=torch.int64, device=loader.device)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    done = 0
    try:
        with tqdm(
            total=len(rows), desc="answer", unit="q", disable=not progress, leave=False
        ) as bar:
            for batch in loader.in_order(rows[order]):
                if stop():
                    raise PredictionStoppedError
                with autocast(loader.device, precision):
                    logits = model(batch.features, batch.questions, batch.image_of_question)
                found[done : done + len(batch.index)] = logits.argmax(1)
                done += len(batch.index)
                bar.update(len(batch.index))
    finally:
        for module, training in modes:
            module.training = training
    answers = torch.empty(len(rows), dtype=torch.int64)
    answers[order] = found.cpu()
    return answers
