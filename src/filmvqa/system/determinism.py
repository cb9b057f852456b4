"""Reproducible results: deterministic kernels, and the state of the random generators."""

from __future__ import annotations

from typing import Any

import torch

from filmvqa.system import processes


def enable_determinism(device: torch.device) -> None:
    """Use deterministic kernels on a GPU, and warn where torch has none. The CPU's kernels are
    always deterministic.

    cuBLAS is deterministic only if the environment variable ``CUBLAS_WORKSPACE_CONFIG`` was set
    before cuBLAS started: programs set it (``cli.process.set_environment``).
    """
    if device.type != "cuda":
        return
    torch.use_deterministic_algorithms(True, warn_only=True)
    # By default torch then fills new memory, to expose reads of uninitialised values.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


def seed_process(number: int = 0) -> None:
    """Reseed torch in every process but the first, by the seed, the rank and ``number``, so that
    processes with equal models draw different dropout masks."""
    if processes.rank():
        torch.manual_seed((torch.initial_seed() + 1_000_003 * processes.rank() + number) % 2**63)


def random_state(device: torch.device) -> dict[str, Any]:
    """The states of torch's random generators that training on ``device`` uses: the CPU's, and the
    GPU's if ``device`` is a GPU."""
    cuda = [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []
    return {"cpu": torch.get_rng_state(), "cuda": cuda}


def restore_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Set torch's random generators to the states that ``random_state`` returned.

    Earlier versions saved the states of all visible GPUs: the state with this GPU's number is
    restored. A GPU without a saved state keeps its present one, which the run's seed has set.
    """
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and (states := state["cuda"]):
        index = torch.cuda.current_device() if device.index is None else device.index
        torch.cuda.set_rng_state(states[min(index, len(states) - 1)], device)
