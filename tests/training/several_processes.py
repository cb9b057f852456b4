"""Training runs in several processes: ``run_jobs`` starts processes that run this module."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from filmvqa.cli.process import end_with_parent
from filmvqa.features.store import FeatureStore
from filmvqa.system import processes
from filmvqa.training.run import train_run
from filmvqa.training.settings import OptimSettings, RunSettings, TrainerSettings
from tests.conftest import REPOSITORY, set_in

TRAINER = {
    "batch_size": 64, "max_steps": 20, "eval_every": 10, "log_every": 1, "grad_clip": 1.0,
    "patience": None, "precision": "float32",
}  # fmt: skip
#: Small, as in ``pinned_run``: Adam scales up the smallest gradients, which are rounding errors.
OPTIM = {"lr": 1e-5}


@dataclass(frozen=True)
class Job:
    """A run to train, if ``double`` in double precision."""

    folder: str
    model: dict[str, Any]
    double: bool = False
    trainer: dict[str, Any] = field(default_factory=dict)


def run_jobs(count: int, h5: Path, jobs: Sequence[Job]) -> None:
    """Train the runs one after the other in ``count`` processes, each with one thread."""
    command = [sys.executable, "-m", "torch.distributed.run", f"--nproc_per_node={count}"]
    command += ["--standalone", "-m", "tests.training.several_processes"]
    done = subprocess.run(
        [*command, str(h5), json.dumps([asdict(job) for job in jobs])],
        cwd=REPOSITORY, env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def run_job(h5: Path, job: Job) -> None:
    """Train a run in this process and those that it has joined."""
    settings = RunSettings(
        data=set_in(h5),
        model=job.model,
        optim=OptimSettings(**OPTIM),
        trainer=TrainerSettings(**TRAINER | job.trainer),
        device="cpu",
    )
    with _double_precision() if job.double else nullcontext():
        train_run(job.folder, settings)


@contextmanager
def _double_precision() -> Iterator[None]:
    read = FeatureStore.read
    FeatureStore.read = lambda *args: read(*args).double()  # type: ignore[method-assign]
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        FeatureStore.read = read  # type: ignore[method-assign]


if __name__ == "__main__":
    end_with_parent()
    processes.join()
    for each in json.loads(sys.argv[2]):
        run_job(Path(sys.argv[1]), Job(**each))
    processes.end_together()
