from __future__ import annotations

import errno
import mmap
import os
from unittest.mock import Mock

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from filmvqa.features.buffers import Buffers

FORMATS = (torch.contiguous_format, torch.channels_last)
DTYPES = (torch.uint8, torch.float16, torch.float32)
STEP = st.tuples(
    st.integers(0, 5), st.integers(0, 4), st.sampled_from(DTYPES), st.sampled_from(FORMATS)
)


@given(steps=st.lists(STEP, min_size=1, max_size=30))
def test_memory_in_use_is_never_reused(steps: list) -> None:
    """Six holders take and release tensors in any order; each keeps what it wrote."""
    buffers, held = Buffers(), {}
    for k, (holder, count, dtype, memory_format) in enumerate(steps):
        tensor = buffers.empty((count, 3, 4, 5), dtype, memory_format)
        assert (tensor.shape, tensor.dtype) == ((count, 3, 4, 5), dtype)
        assert tensor.is_contiguous(memory_format=memory_format)
        held[holder] = (k, tensor.fill_(k)[:, 1:])  # a view keeps the memory in use
        del tensor
        for number, kept in held.values():
            assert (kept == number).all()


def test_unused_memory_is_reused() -> None:
    buffers, places = Buffers(), set()
    for count in (8, 3, 8, 1):
        tensors = [buffers.empty((n, 2, 8, 8), torch.float32) for n in (8, count)]
        places |= {tensor.data_ptr() for tensor in tensors}
        del tensors
    assert len(places) == 2


def test_a_failed_allocation_is_a_memory_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(mmap, "mmap", refuse)
    with pytest.raises(MemoryError, match="6 bytes for a batch: Cannot allocate memory"):
        Buffers().empty((1, 2, 3, 1), torch.uint8)


def test_released_memory_is_not_reused(monkeypatch: pytest.MonkeyPatch) -> None:
    allocate = Mock(wraps=mmap.mmap)
    monkeypatch.setattr(mmap, "mmap", allocate)
    buffers = Buffers()
    for _ in range(2):
        held, unused = (buffers.empty((1, 2, 3, 1), torch.uint8) for _ in range(2))
        del unused
        buffers.release()
        assert held.fill_(7).sum() == 42
        del held
    assert allocate.call_count == 3  # memory that was in use at the release is reused
