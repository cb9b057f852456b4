"""Devices, and the precision of computations on them."""

from __future__ import annotations

import platform
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from filmvqa.system import processes
from filmvqa.system.errors import UserError, one_line

_TYPES = ("cpu", "cuda", "mps")


def choose_device(name: str) -> torch.device:
    """The torch device ``name``; ``auto`` is the GPU if there is one, else the CPU. Each process of
    a machine gets a different GPU.

    Raises
    ------
    UserError
        For an unknown name, or if this machine has no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and processes.count() > 1:
        name = f"cuda:{processes.rank_on_node()}"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"device={name}: {one_line(error)}; choose another, or cpu") from None
    if device.type not in _TYPES:
        raise UserError(f"device={name}: choose one of auto, {', '.join(_TYPES)}, cuda:<number>")
    if device.type == "cuda":
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        if (device.index or 0) >= count:
            remedy = "choose another, or cpu"
            if processes.count() > 1:
                remedy = "start no more processes on a machine than it has GPUs, or choose cpu"
            raise UserError(f"device={name}: torch has {count} GPUs here; {remedy}")
        if processes.count() > 1:
            torch.cuda.set_device(device)  # for what torch allocates to communicate
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"device={name}: {one_line(error)}; choose another, or cpu") from None
    return device


def hardware(device: torch.device) -> dict[str, Any]:
    """The names of the processor and the device, the processor's vector instructions, and the
    number of torch's threads."""
    processor = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        models = (line.split(": ")[1] for line in lines if line.startswith("model name"))
        processor = next(models, processor)
    return {
        "processor": processor,
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
    }


@cache
def has_fast_bfloat16(device_type: str) -> bool:
    """Whether the hardware has instructions for bfloat16 matrix products. Without them bfloat16 is
    slower than float32."""
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    is_fast_cpu = has_amx() or bool(getattr(torch.cpu, "_is_avx512_bf16_supported", bool)())
    return device_type == "cpu" and is_fast_cpu


def has_amx() -> bool:
    """Whether the processor has AMX, with which bfloat16 products are far faster than float32's."""
    # torch has no public function for this. A version without the private one counts as slow.
    return bool(getattr(torch.cpu, "_is_amx_tile_supported", bool)())


def use_bfloat16(device: torch.device, precision: str) -> bool:
    """Whether to compute in bfloat16: ``precision`` asks for it, or is ``auto`` and it is fast."""
    return precision == "bfloat16" or (precision == "auto" and has_fast_bfloat16(device.type))


def autocast(device: torch.device, precision: str) -> Any:
    """A context in which the forward pass runs in ``precision`` on ``device``."""
    return torch.autocast(device.type, torch.bfloat16, enabled=use_bfloat16(device, precision))


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """The dtype of matrix products with a tensor: autocast's dtype if autocast is enabled, else
    float64 for a float64 tensor and float32 for any other."""
    device_type = tensor.device.type
    if torch.is_autocast_enabled(device_type):
        return torch.get_autocast_dtype(device_type)
    return tensor.dtype if tensor.dtype in (torch.float32, torch.float64) else torch.float32


def at_least_float32(tensor: Tensor) -> Tensor:
    """The tensor in float32 if its precision is lower, for computations that bfloat16 would round
    too much; float64 is unchanged."""
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a host tensor to a device without waiting for the device. A tensor that is already there
    is returned unchanged."""
    if device.type == "cuda" and not tensor.is_cuda:
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
