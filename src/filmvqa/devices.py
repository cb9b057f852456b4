"""Devices, and the precisions that they compute in fast."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from filmvqa.errors import UserError

PRECISIONS = ("auto", "float32", "bfloat16")


def choose_device(name: str) -> torch.device:
    """``auto`` is the GPU where there is one, else the CPU."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name}: {str(error).splitlines()[0]}") from None
    return device


def hardware(device: torch.device) -> dict[str, Any]:
    """What computes: processor, threads, device."""
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.split(": ")[1] for x in lines if x.startswith("model name")), model)
    return {
        "processor": model,
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


@cache
def has_fast_bfloat16(device_type: str) -> bool:
    """Whether the hardware multiplies bfloat16 matrices itself: elsewhere it is slower than
    float32."""
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    # torch has no public questions for them; without the private ones the answer is no.
    asks = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return device_type == "cpu" and any(getattr(torch.cpu, ask, bool)() for ask in asks)


def use_bfloat16(device: torch.device, precision: str) -> bool:
    """Whether ``precision`` means bfloat16 on ``device``: ``auto`` does where it is fast."""
    return precision == "bfloat16" or (precision == "auto" and has_fast_bfloat16(device.type))


def autocast(device: torch.device, precision: str) -> Any:
    """The context in which a forward pass runs in ``precision`` on ``device``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=use_bfloat16(device, precision))


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """What products with a tensor are computed in: autocast's precision where it is on, else the
    tensor's own, or float32 where that is not one to compute in."""
    kind = tensor.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return tensor.dtype if tensor.dtype in (torch.float32, torch.float64) else torch.float32


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on a device, without waiting for the device."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
