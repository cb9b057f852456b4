"""The faster precision for a model."""

from __future__ import annotations

import torch
from torch import nn

from filmvqa.models.fast.block import FastFilmedResBlock
from filmvqa.system.devices import has_amx


def choose_precision(model: nn.Module, device: torch.device, precision: str) -> str:
    """Replace ``auto`` by float32 if the model has blocks whose float32 kernels are faster.

    On an AMD EPYC with bfloat16 products (AVX-512, no AMX), a training step of the demo takes 59 ms
    of processor time in float32 with the kernels, and 81 ms in bfloat16. AMX doubles the speed of
    bfloat16 products again; it was not measured, and ``auto`` stays as it is.
    """
    if precision != "auto" or device.type != "cpu" or has_amx():
        return precision
    has_kernels = any(isinstance(module, FastFilmedResBlock) for module in model.modules())
    return "float32" if has_kernels else precision
