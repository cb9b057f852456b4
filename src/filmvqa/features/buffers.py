"""Memory for batches of features, reused once a batch is no longer referenced."""

from __future__ import annotations

import math
import mmap
import weakref

import numpy as np
import torch
from torch import Tensor


class Buffers:
    """Host tensors that take no more memory than those that exist at the same time.

    The C library may keep several times as much of large freed blocks, depending on the order in
    which threads run. ``empty`` may be called by several threads.
    """

    def __init__(self) -> None:
        self._free: list[mmap.mmap] = []

    def empty(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        memory_format: torch.memory_format = torch.contiguous_format,
    ) -> Tensor:
        """An uninitialised tensor (N, C, H, W); its memory is reused once its last view is gone."""
        size = math.prod(shape) * dtype.itemsize
        try:
            memory = self._free.pop()
        except IndexError:
            memory = None
        if memory is None or len(memory) < size:
            try:
                memory = mmap.mmap(-1, max(1, size))
            except OSError as error:  # callers take an OSError for trouble with a disk
                raise MemoryError(f"{size} bytes for a batch: {error.strerror}") from error
        owner = np.frombuffer(memory, np.uint8, size)
        weakref.finalize(owner, self._free.append, memory)
        flat = torch.from_numpy(owner).view(dtype)
        if memory_format == torch.channels_last:
            count, channels, height, width = shape
            return flat.view(count, height, width, channels).permute(0, 3, 1, 2)
        return flat.view(shape)

    def release(self) -> None:
        """Give back the memory that nobody holds."""
        self._free.clear()
