"""The conditions under which a fast form may run instead of the plain module."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module

import filmvqa.film

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_COMPARED = "_compared_parts"


def remember_parts(module: nn.Module) -> None:
    """Remember the parts that a module has now, for ``is_intact``."""
    module.__dict__[_COMPARED] = _parts(module)


def is_intact(module: nn.Module) -> bool:
    """Whether the plain module still computes the same as its fast form.

    That is the case if its parts and ``film`` are those of the comparison, no part has a hook, and
    torch is not compiling.
    """
    if torch.compiler.is_compiling() or module.__dict__.get(_COMPARED) != _parts(module):
        return False
    if any(getattr(torch_module, f"_global{name}") for name in _HOOKS):
        return False
    return not any(getattr(part, name) for part in module.modules() for name in _HOOKS
                   if part is not module)  # fmt: skip


def _parts(module: nn.Module) -> tuple[Any, ...]:
    """The functions that a module's parts run."""
    parts = ((type(p), type(p).forward, p.__dict__.get("forward")) for p in module.modules())
    return (filmvqa.film.film, *parts)
