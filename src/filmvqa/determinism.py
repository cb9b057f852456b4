"""Reproducible results: deterministic kernels, and the state of the random generators."""

from __future__ import annotations

from typing import Any

import torch


def enable_determinism(device: torch.device) -> None:
    """Use deterministic kernels on a GPU; torch warns where it has none. The CPU's kernels are
    deterministic already.

    cuBLAS is deterministic only if the environment variable ``CUBLAS_WORKSPACE_CONFIG`` was set
    before cuBLAS started: programs set it (``cli.process.set_environment``).
    """
    if device.type != "cuda":
        return
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Otherwise torch fills all new memory, to expose reads of uninitialised values.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def random_state() -> dict[str, Any]:
    """The states of torch's random generators, the only ones that training uses."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: dict[str, Any]) -> None:
    """Set torch's random generators to the states that ``random_state`` returned."""
    torch.set_rng_state(state["cpu"])
    if torch.cuda.is_available() and state["cuda"]:
        torch.cuda.set_rng_state_all(state["cuda"])
