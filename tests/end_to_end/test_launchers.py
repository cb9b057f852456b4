"""Sweeps whose jobs run in other processes, and sweeps with a failing job."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from filmvqa.checkpoints.checkpoint import load_checkpoint
from filmvqa.system.cores import cores
from tests.conftest import REPOSITORY, run_script, script_environment
from tests.end_to_end.sweeps import Sweep, check_interrupted_sweep
from tests.end_to_end.workplace import TRAIN, fail, succeed
from tests.worlds.clevr.file_hashes import file_hashes

pytestmark = [pytest.mark.processes, pytest.mark.slow]

LAUNCHERS = {
    "basic": [],
    "submitit_local": ["hydra/launcher=submitit_local", "hydra.launcher.timeout_min=5"],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
}


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_sweep_under_every_launcher(launcher: str, copy: Path) -> None:
    """Two jobs train; the third fails and is listed."""
    command = [
        "-m", *TRAIN, *LAUNCHERS[launcher], "name=sweep", "optim.weight_decay=0,1e-5,-1",
    ]  # fmt: skip
    done = run_script("train.py", *command, cwd=copy, forked=launcher == "basic")
    folder = copy / "outputs/sweeps/sweep"
    assert done.returncode == 1, done.stderr[-2000:]
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("error: 1 of the sweep's jobs failed")
    assert "weight_decay=-1" in last
    assert "optim.weight_decay=-1: must be a finite number of at least 0" in last
    finished = sorted(folder.glob("*/last.pt"))
    assert len(finished) == 2
    for path in finished:
        assert load_checkpoint(path)["progress"]["finished"]
    (failure,) = folder.glob("*/failure.txt")
    assert "weight_decay=-1" in failure.read_text()
    assert "Traceback" in failure.read_text()
    report = run_script("sweep_report.py", "dir=outputs/sweeps/sweep", cwd=copy)
    assert report.returncode == 0, report.stderr


def test_a_missing_cluster_is_one_line(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    line = fail("train.py", "-m", *TRAIN, "seed=0,1", "hydra/launcher=submitit_cpu", cwd=copy)
    assert line.startswith("error: hydra/launcher=submitit_cpu: ")


def test_joblibs_jobs_divide_the_cores(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the user has set the number of threads."""
    environment = script_environment()
    del environment["OMP_NUM_THREADS"]
    script = REPOSITORY / "scripts/train.py"
    command = [*TRAIN, "name=sweep", "optim.weight_decay=0,1e-5", *LAUNCHERS["joblib"]]
    subprocess.run(
        [sys.executable, str(script), "-m", *command], cwd=copy, env=environment, check=True,
        capture_output=True,
    )  # fmt: skip
    for path in copy.glob("outputs/sweeps/sweep/*/provenance.json"):
        (record,) = json.loads(path.read_text())["environments"]
        assert record["threads"] == max(1, cores() // 2)


def test_a_job_whose_time_ends_is_saved_queued_again_and_resumed(copy: Path) -> None:
    """Beside another job, which fails. submitit's local executor gets Slurm's signal."""
    run = [*TRAIN, "trainer.max_steps=250", "trainer.eval_every=250"]
    succeed("train.py", *run, "optim.weight_decay=0", "name=sweep", "run=whole", cwd=copy)
    sweep = Sweep(copy, *run, "optim.weight_decay=0,-1", *LAUNCHERS["submitit_local"])
    folder, process = sweep.training_job()
    os.kill(process, signal.SIGUSR2)
    status, errors = sweep.end()
    check_interrupted_sweep(status, errors, folder, copy / "outputs/sweep/whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_a_sweep_of_joblib_saves_all_jobs(copy: Path, number: signal.Signals) -> None:
    """Jobs that have not started do not start."""
    endless = ["trainer.max_steps=100000", "trainer.eval_every=100000"]
    sweep = Sweep(copy, *TRAIN, *endless, "seed=0,1,2", *LAUNCHERS["joblib"])
    folders = sweep.training_jobs(2)
    sweep.signal(number)
    status, errors = sweep.end()
    assert status == 128 + number
    assert errors.splitlines()[-1].startswith(
        f"error: the sweep and its jobs were stopped by {number.name}; run the same command again"
    )
    assert "Traceback" not in errors
    assert all((folder / "last.pt").exists() for folder in folders)
    assert len(list(folders[0].parent.glob("*/last.pt"))) == 2


def test_a_killed_job_is_reported(copy: Path) -> None:
    """It records no failure in its folder; the same command resumes it."""
    run = [*TRAIN, "trainer.max_steps=100", "trainer.eval_every=100"]
    sweep = Sweep(copy, *run, "optim.weight_decay=0,1e-5", *LAUNCHERS["submitit_local"])
    _, process = sweep.training_job()
    os.kill(process, signal.SIGKILL)
    status, errors = sweep.end()
    assert status == 1
    assert errors.splitlines()[-1].startswith(
        "error: a job of the sweep was stopped or killed (Job "
    )
    assert "Traceback" not in errors


@pytest.mark.parametrize("launcher", ["submitit_local", "joblib"])
def test_a_set_made_in_parts_by_jobs_equals_the_whole_set(launcher: str, tmp_path: Path) -> None:
    """Two or three parts at a time; the last one merges them."""
    generator = [
        "data=mini", "data.generator.images={train:260,val:3,test:0}", "data.generator.width=32",
        "data.generator.height=32", "data.generator.rays=1", "workers=1",
    ]  # fmt: skip
    succeed("generate_clevr.py", *generator, "data.root=data/whole", cwd=tmp_path)
    parts = ["-m", *generator, "data.root=data/parts", "parts=3", "part=range(3)"]
    done = run_script("generate_clevr.py", *parts, *LAUNCHERS[launcher], cwd=tmp_path, forked=False)
    assert done.returncode == 0, done.stderr[-2000:]
    assert file_hashes(tmp_path / "data/parts") == file_hashes(tmp_path / "data/whole")


_BUG = """
import torch
seed = torch.manual_seed
def broken(number):
    if number == 7:
        raise ValueError("a bug")
    return seed(number)
torch.manual_seed = broken
"""


def test_a_bug_in_a_job_is_listed_with_its_traceback(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A bug is an exception that is no user error."""
    (copy / "outputs/sweeps/sweep").mkdir(parents=True)
    (copy / "site").mkdir()
    (copy / "site/sitecustomize.py").write_text(_BUG)
    path = os.environ.get("PYTHONPATH")
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(copy / "site"), *([path] if path else [])])
    )
    command = ["-m", *TRAIN, "name=sweep", "seed=0,7"]
    done = run_script("train.py", *command, cwd=copy, forked=False)
    assert done.returncode == 1
    assert "Traceback" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: 1 of the sweep's jobs failed")
    metrics = next((copy / "outputs/sweeps/sweep").glob("*/metrics.jsonl")).read_text()
    assert any("val_accuracy" in json.loads(line) for line in metrics.splitlines())
