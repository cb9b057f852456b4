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
    """The module, replaced by its fast form."""
    done = accelerate(nn.ModuleList([module]))
    assert "0" in done.replaced, done
    return module


@contextmanager
def threads(count: int) -> Iterator[None]:
    """Work with so many threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
