"""Running a model over questions."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from filmvqa.data.loader import Loader

PRECISIONS = ("auto", "float32", "bfloat16")


@cache
def has_fast_bfloat16(device_type: str) -> bool:
    """Whether the hardware multiplies bfloat16 matrices itself: elsewhere it is slower than
    float32."""
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # torch has no public question for it; without the private one the answer is no.
    asks = getattr(torch.cpu, "_is_amx_tile_supported", None)
    return device_type == "cpu" and asks is not None and bool(asks())


def autocast(device: torch.device, precision: str) -> Any:
    """The context in which a forward pass runs in ``precision`` on ``device``; ``auto`` is
    bfloat16 where the hardware has it."""
    fast = precision == "auto" and has_fast_bfloat16(device.type)
    return torch.autocast(device.type, torch.bfloat16, enabled=fast or precision == "bfloat16")


@torch.inference_mode()
def predict(
    model: nn.Module,
    loader: Loader,
    rows: Tensor | None = None,
    *,
    precision: str = "float32",
    progress: bool = True,
) -> Tensor:
    """Most likely answers (N,) int64 on the CPU of the given rows, or of all, in their order.

    Sorted by length so that no batch is padded much; the model is left in the mode it was in.
    """
    questions = loader.questions
    rows = torch.arange(len(questions)) if rows is None else rows
    order = torch.argsort(questions.lengths.cpu()[rows], stable=True)
    found = torch.empty(len(rows), dtype=torch.int64)
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    done = 0
    with tqdm(total=len(rows), desc="answer", unit="q", disable=not progress, leave=False) as bar:
        for batch in loader.in_order(rows[order]):
            with autocast(batch.questions.device, precision):
                logits = model(batch.features, batch.questions, batch.image_of_question)
            found[order[done : done + len(batch.index)]] = logits.argmax(1).cpu()
            done += len(batch.index)
            bar.update(len(batch.index))
    for module, training in modes:
        module.training = training
    return found
