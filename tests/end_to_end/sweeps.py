"""A sweep in the background, whose jobs can be sent signals."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from filmvqa.checkpoints.checkpoint import load_checkpoint
from tests.conftest import REPOSITORY, script_environment
from tests.training.tiny_runs import metrics, same


class Sweep:
    """A running ``train.py -m name=sweep`` with further arguments, in a folder."""

    def __init__(self, cwd: Path, *arguments: str) -> None:
        self._folder = cwd / "outputs/sweeps/sweep"
        self._process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / "scripts/train.py"), "-m", "name=sweep", *arguments],
            cwd=cwd, env=script_environment(), text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip

    def training_job(self, seconds: float = 120) -> tuple[Path, int]:
        """Wait until a job trains; returns its folder and process."""
        deadline = time.monotonic() + seconds
        while True:
            for path in self._folder.glob("*/metrics.jsonl"):
                if path.stat().st_size:
                    return path.parent, int(path.with_name(".lock").read_text().split()[0])
            if time.monotonic() > deadline or self._process.poll() is not None:
                self._process.kill()
                raise AssertionError(self.end())
            time.sleep(0.05)

    def training_jobs(self, count: int) -> list[Path]:
        """Wait until ``count`` jobs train; returns their folders."""
        while True:
            self.training_job()
            logs = [path for path in self._folder.glob("*/metrics.jsonl") if path.stat().st_size]
            if len(logs) >= count:
                return [path.parent for path in logs]
            time.sleep(0.05)

    def signal(self, number: int) -> None:
        """Send a signal to the sweep's process alone."""
        self._process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """The exit status and the standard error."""
        _, errors = self._process.communicate(timeout=240)
        return self._process.returncode, errors


def check_interrupted_sweep(status: int, errors: str, folder: Path, whole: Path) -> None:
    """Assert that one job of the sweep failed, and that the interrupted job in ``folder`` has the
    bits of the undisturbed run ``whole``."""
    assert status == 1
    last = errors.splitlines()[-1]
    assert last.startswith("error: 1 of the sweep's jobs failed")
    assert "optim.weight_decay=-1: must be a finite number of at least 0" in last
    logs = "".join(path.read_text() for path in folder.parent.glob(".submitit/*/*_log.*"))
    assert "SIGUSR2: finishing the step and saving" in logs
    assert f"{folder.relative_to(folder.parents[3])}: resuming from step " in logs
    resumed, undisturbed = (load_checkpoint(run / "last.pt") for run in (folder, whole))
    assert resumed["progress"]["finished"]
    assert same(resumed["weights"], undisturbed["weights"])
    assert same(resumed["optimizer"], undisturbed["optimizer"])
    assert metrics(folder) == metrics(whole)
