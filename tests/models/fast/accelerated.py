"""Modules in their fast form."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import torch
from torch import nn

from filmvqa.models.fast.accelerate import accelerate

M = TypeVar("M", bound=nn.Module)


def accelerated(module: M) -> M:
    """Replace a module by its fast form."""
    acceleration = accelerate(nn.ModuleList([module]))
    assert "0" in acceleration.replaced, acceleration
    return module


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Within the block, let torch use ``count`` threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
