"""Memory for batches of features, used again as soon as nobody holds a batch any more."""

from __future__ import annotations

import math
import mmap
import weakref

import numpy as np
import torch
from torch import Tensor


class Buffers:
    """Host tensors that take no more memory than those that live at the same time.

    What the C library keeps of large freed blocks can be several times that, and depends on which
    thread was first. Several threads may ask.
    """

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []

    def empty(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> Tensor:
        """Room for a tensor (N, C, H, W), which is taken back when the last view of it is gone."""
        size = math.prod(shape) * dtype.itemsize
        try:
            memory = self._free.pop()
        except IndexError:
            memory = None
        if memory is None or len(memory) < size:
            try:
                memory = mmap.mmap(-1, max(1, size))
            except OSError as error:  # not of a disk, as callers would think
                raise MemoryError(f"{size} bytes for a batch: {error.strerror}") from error
        held = np.frombuffer(memory, np.uint8, size)
        weakref.finalize(held, self._free.append, memory)
        flat = torch.from_numpy(held).view(dtype)
        if memory_format == torch.channels_last:
            count, channels, height, width = shape
            return flat.view(count, height, width, channels).permute(0, 3, 1, 2)
        return flat.view(shape)
