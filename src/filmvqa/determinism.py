"""The same bits again: deterministic kernels, and the state of random generators."""

from __future__ import annotations

import os

import torch


def enable_determinism(device: torch.device) -> None:
    """Let a GPU compute the same bits again, where torch has a kernel that does: it names those
    that do not. On a CPU they are the same anyway."""
    if device.type != "cuda":
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs for it
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Else all fresh memory would be filled, to find reads of what nothing was written to.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
