"""How many questions and images a batch needs so that a model's batch norms can be trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

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
    trained: dict[str, nn.Module] = {
        n: m for n, m in model.named_modules() if isinstance(m, _BatchNorm) and m.training
    }
    batch = loader.batch(row)
    one_image = batch.image_of_question.expand(num_questions)
    with torch.no_grad(), _values_per_channel(trained) as values:
        model.eval()(batch.features, batch.questions.expand(num_questions, -1), one_image)
    return [name for name, count in values.items() if count == 1]


@contextmanager
def _values_per_channel(norms: dict[str, nn.Module]) -> Iterator[dict[str, int]]:
    """Record how many values per channel each norm gets within a block."""
    values: dict[str, int] = {}

    def count(name: str) -> Any:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            values[name] = inputs[0].numel() // inputs[0].shape[1]

        return hook

    with ExitStack() as hooks:
        for name, norm in norms.items():
            hooks.callback(norm.register_forward_pre_hook(count(name)).remove)
        yield values


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
