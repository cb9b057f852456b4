"""The conditions under which a fast form may run instead of the plain module."""

from __future__ import annotations

import hashlib
import inspect
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module

import filmvqa.film

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_COMPARED = "_compared_parts"
#: Hash of the source of ``film``, whose formula the fast block computes.
FILM_SHA256 = "86f623704e90ed05db04e0071a82cd2e09bdc3edc0a45e99ec441fc257df2c50"


def is_film_edited() -> bool:
    """Whether ``filmvqa.film.film`` is not the function that the fast block was written for.

    False if its source cannot be read, as in a package without its Python files.
    """
    try:
        source = inspect.getsource(filmvqa.film.film.__code__)  # of a wrapper, not of what it wraps
    except OSError:
        return False
    except AttributeError:  # no function
        return True
    return hashlib.sha256(" ".join(source.split()).encode()).hexdigest() != FILM_SHA256


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
