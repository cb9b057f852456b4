"""What the machine at hand has: devices, memory, fast precisions."""

from __future__ import annotations

import ctypes
import os
import platform
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


def product_dtype(tensor: Tensor) -> torch.dtype:
    """What products with a tensor are computed in: autocast's precision where it is on, else the
    tensor's own, or float32 where that is not one to compute in."""
    kind = tensor.device.type
    if torch.is_autocast_enabled(kind):
        return torch.get_autocast_dtype(kind)
    return tensor.dtype if tensor.dtype in (torch.float32, torch.float64) else torch.float32


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """A host tensor on a device, without waiting for the device."""
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def repeatable(device: torch.device) -> None:
    """Let a GPU compute the same bits again, where torch has a kernel that does: it names those
    that do not. On a CPU they are the same anyway."""
    if device.type != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Else all fresh memory would be filled, to find reads of what nothing was written to.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@contextmanager
def explained_out_of_memory(describe: Callable[[], str]) -> Iterator[None]:
    """Turn what torch says when memory does not suffice into a ``UserError`` of ``describe``."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:  # OutOfMemoryError is a RuntimeError
        if not isinstance(error, torch.OutOfMemoryError | MemoryError) and (
            "can't allocate memory" not in str(error)  # what the CPU's allocator says
        ):
            raise
        raise UserError(describe()) from error


def keep_freed_memory() -> None:
    """Let this process keep memory that it frees, where that can be told (glibc).

    By default glibc gives large blocks back at once, and the system clears new ones page by page:
    a sixth of a training step of the paper's network on two cores.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(-4, 0)  # M_MMAP_MAX: no block of its own for a large allocation
        mallopt(-1, 2**31 - 1)  # M_TRIM_THRESHOLD: never shrink the heap


def bound_kernel_caches() -> None:
    """Let torch keep fewer of the kernels that the CPU makes for bfloat16 products.

    One is made for each shape that is met, and an encoder's shapes change from batch to batch.
    oneDNN keeps 1,024, and torch 1,024 more that are hardly used again: half of 800 MB. oneDNN's
    own cache stays as it is: with 256 the demo trains a quarter slower on a processor with AMX.
    Heeded if torch has not used them before.
    """
    os.environ.setdefault("LRU_CACHE_CAPACITY", "64")


def free_memory() -> int:
    """Bytes of memory that can be had without swapping, within the limits of a container."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        fields = dict(line.split(":") for line in lines)
        free = int(fields["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):  # not Linux
        free = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2
    try:
        group = Path("/sys/fs/cgroup")
        limit, used = ((group / f"memory.{name}").read_text() for name in ("max", "current"))
        return min(free, int(limit) - int(used))
    except (OSError, ValueError):  # no group, or no limit: "max"
        return free
