"""The precision that is faster for a model."""

from __future__ import annotations

import torch
from torch import nn

from filmvqa.models.fast.block import FastFilmedResBlock
from filmvqa.system.devices import has_amx


def choose_precision(model: nn.Module, device: torch.device, precision: str) -> str:
    """``precision``, where ``auto`` is float32 if the model has blocks whose kernels, which are for
    float32, are faster than bfloat16 products on this CPU.

    On an AMD EPYC with bfloat16 products (AVX-512, no AMX) a training step of the demo takes 59 ms
    of processor time in float32 with the kernels, and 81 ms in bfloat16. With AMX, whose products
    are twice as fast again, it was not measured, and bfloat16 stays.
    """
    if precision != "auto" or device.type != "cpu" or has_amx():
        return precision
    has_kernels = any(isinstance(module, FastFilmedResBlock) for module in model.modules())
    return "float32" if has_kernels else precision
