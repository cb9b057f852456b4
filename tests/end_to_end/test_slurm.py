"""Sweeps and sets on a real Slurm of one node; skipped where none can be started."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import run_script
from tests.end_to_end.slurm import NoSlurmError, one_node
from tests.end_to_end.sweeps import Sweep, check_interrupted_sweep
from tests.end_to_end.workplace import TRAIN, succeed
from tests.worlds.clevr.file_hashes import file_hashes

pytestmark = [pytest.mark.processes, pytest.mark.slow]

LAUNCHER = [
    "hydra/launcher=submitit_cpu", "hydra.launcher.cpus_per_task=1", "hydra.launcher.mem_gb=1",
    "hydra.launcher.timeout_min=20",
]  # fmt: skip


@pytest.fixture(scope="module")
def cluster() -> Iterator[Path]:
    try:
        with one_node() as config:
            yield config
    except NoSlurmError as error:
        pytest.skip(f"no Slurm here: {error}")


@pytest.fixture
def slurm(cluster: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", str(cluster))


@pytest.mark.usefixtures("slurm")
def test_a_job_that_slurm_warns_is_saved_queued_again_and_resumed(copy: Path) -> None:
    """Beside another job, which fails."""
    run = [*TRAIN, "trainer.max_steps=250", "trainer.eval_every=250"]
    succeed("train.py", *run, "optim.weight_decay=0", "name=sweep", "run=whole", cwd=copy)
    sweep = Sweep(copy, *run, "optim.weight_decay=0,-1", *LAUNCHER)
    folder, process = sweep.training_job()
    environment = Path(f"/proc/{process}/environ").read_text().split("\0")
    job = next(line.partition("=")[2] for line in environment if line.startswith("SLURM_JOB_ID="))
    subprocess.run(["scancel", "--signal=USR2", job], check=True)
    status, errors = sweep.end()
    check_interrupted_sweep(status, errors, folder, copy / "outputs/sweep/whole")


@pytest.mark.usefixtures("slurm")
def test_a_set_made_in_parts_by_slurms_jobs_equals_the_whole_set(tmp_path: Path) -> None:
    generator = [
        "data=mini", "data.generator.images={train:260,val:3,test:0}", "data.generator.width=32",
        "data.generator.height=32", "data.generator.rays=1",
    ]  # fmt: skip
    succeed("generate_clevr.py", *generator, "data.root=data/whole", "workers=1", cwd=tmp_path)
    parts = ["-m", *generator, "data.root=data/parts", "parts=3", "part=range(3)", *LAUNCHER]
    done = run_script("generate_clevr.py", *parts, cwd=tmp_path, forked=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert file_hashes(tmp_path / "data/parts") == file_hashes(tmp_path / "data/whole")
