"""Memory for batches of features, reused when a batch is no longer referenced."""

from __future__ import annotations

import math
import mmap
import weakref

import numpy as np
import torch
from torch import Tensor


class Buffers:
    """Host tensors whose total memory is that of the tensors that exist at the same time.

    The C library may keep several times as much memory in large freed blocks, depending on the
    order in which threads run. Several threads may call ``empty``.
    """

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []

    def empty(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> Tensor:
        """An uninitialised tensor (N, C, H, W). Its memory is reused when its last view is gone."""
        size = math.prod(shape) * dtype.itemsize
        try:
            memory = self._free.pop()
        except IndexError:
            memory = None
        if memory is None or len(memory) < size:
            try:
                memory = mmap.mmap(-1, max(1, size))
            except OSError as error:  # callers treat an OSError as a disk error
                raise MemoryError(f"{size} bytes for a batch: {error.strerror}") from error
        owner = np.frombuffer(memory, np.uint8, size)
        weakref.finalize(owner, self._free.append, memory)
        flat = torch.from_numpy(owner).view(dtype)
        if memory_format == torch.channels_last:
            count, channels, height, width = shape
            return flat.view(count, height, width, channels).permute(0, 3, 1, 2)
        return flat.view(shape)

    def release(self) -> None:
        """Free the memory that no tensor uses."""
        self._free.clear()
