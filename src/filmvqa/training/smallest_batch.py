"""How many questions and images a batch needs so that a model's batch norms can be trained."""

from __future__ import annotations

from contextlib import ExitStack
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from filmvqa.evaluation.batches import Loader
from filmvqa.questions.sampler import EpochSampler
from filmvqa.system.errors import UserError


def norms_of_one_value(
    model: nn.Module, loader: Loader, row: Tensor, num_questions: int
) -> list[str]:
    """The names of the batch norms that cannot estimate a variance in a small batch.

    They get one value per channel if the batch is one question, repeated ``num_questions`` times.

    Parameters
    ----------
    model
        In training mode, except for batch norms that keep their statistics and so need no batch.
        The model is left in evaluation mode and otherwise unchanged.
    row
        (1,) the row of the question.
    """
    values: dict[str, int] = {}  # per channel

    def count(name: str, module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        values[name] = inputs[0].numel() // inputs[0].shape[1]

    batch = loader.batch(row)
    one_image = batch.image_of_question.expand(num_questions)
    with ExitStack() as hooks, torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, _BatchNorm) and module.training:
                hooks.callback(module.register_forward_pre_hook(partial(count, name)).remove)
        model.eval()(batch.features, batch.questions.expand(num_questions, -1), one_image)
    return [name for name, number in values.items() if number == 1]


def check_images_per_batch(sampler: EpochSampler, total_steps: int, norm: str) -> None:
    """Raise ``UserError`` if a batch of the run has questions about only one image.

    The batch norm ``norm`` would get one value per channel from it.
    """
    assert sampler.images is not None
    image_of_row = dict(zip(sampler.available.tolist(), sampler.images.tolist(), strict=True))
    for step in range(total_steps):
        rows = sampler.rows(*divmod(step, sampler.batches_per_epoch)).tolist()
        if len({image_of_row[row] for row in rows}) == 1:
            raise UserError(
                f"trainer.batch_size={sampler.batch_size}: the batch of step {step + 1} asks about "
                f"one image, of which the batch norm {norm} gets a single value; raise it, lower "
                "trainer.questions_per_image, or give the stem fewer strides"
            )
