"""Tensors that the processes of a machine share."""

from __future__ import annotations

import math
import mmap
import os
from collections.abc import Callable

import torch
from torch import Tensor

from filmvqa.system import processes


def shared_on_node(
    shape: tuple[int, ...], dtype: torch.dtype, fill: Callable[[Tensor], None]
) -> Tensor:
    """A host tensor that the first process of each machine fills and all its processes share.

    The memory is an anonymous file (``memfd_create``). The system frees it when the last process
    ends, however it ends, and the size of ``/dev/shm`` does not limit it. A single process on a
    machine, and systems other than Linux, use ordinary memory.
    """
    size = math.prod(shape) * dtype.itemsize
    if processes.count_on_node() == 1 or not size or not hasattr(os, "memfd_create"):
        tensor = torch.empty(shape, dtype=dtype)
        fill(tensor)
        return tensor
    owns = processes.rank_on_node() == 0
    place = ""
    if owns:
        descriptor = os.memfd_create("filmvqa")
        os.ftruncate(descriptor, size)
        tensor = _mapped(descriptor, size, shape, dtype)
        fill(tensor)
        place = f"/proc/{os.getpid()}/fd/{descriptor}"
    place = processes.gathered_on_node(place)[0]
    if not owns:
        descriptor = os.open(place, os.O_RDWR)
        tensor = _mapped(descriptor, size, shape, dtype)
    processes.gathered(None)  # wait until all have opened it
    os.close(descriptor)  # the mapping remains
    return tensor


def _mapped(descriptor: int, size: int, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    memory = mmap.mmap(descriptor, size)
    return torch.frombuffer(memory, dtype=dtype, count=math.prod(shape)).view(shape)
