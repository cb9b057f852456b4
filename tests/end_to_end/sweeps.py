"""A sweep that runs in the background, so that its jobs can be sent signals."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

from filmvqa.checkpoints.checkpoint import load_checkpoint
from tests.conftest import REPOSITORY, script_environment
from tests.training.tiny_runs import metrics, same


class Sweep:
    """``train.py -m`` with the name ``sweep`` and some arguments, in a folder."""

    def __init__(self, cwd: Path, *arguments: str) -> None:
        self._folder = cwd / "outputs/sweeps/sweep"
        self._process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / "scripts/train.py"), "-m", "name=sweep", *arguments],
            cwd=cwd, env=script_environment(), text=True, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )  # fmt: skip

    def training_job(self, seconds: float = 120) -> tuple[Path, int]:
        """Wait until one of the jobs trains; returns its folder and its process."""
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
        """Wait until so many jobs train; returns their folders."""
        while (
            len(trains := [p for p in self._folder.glob("*/metrics.jsonl") if p.stat().st_size])
            < count
        ):
            self.training_job()
            time.sleep(0.05)
        return [path.parent for path in trains]

    def signal(self, number: int) -> None:
        """Send a signal to the process of the sweep alone."""
        self._process.send_signal(number)

    def end(self) -> tuple[int, str]:
        """The exit status, and what was printed on standard error."""
        _, errors = self._process.communicate(timeout=240)
        return self._process.returncode, errors


def check_interrupted_sweep(status: int, errors: str, folder: Path, whole: Path) -> None:
    """One job of the sweep failed, and that of ``folder``, which was interrupted, has the bits of
    ``whole``, which was not."""
    assert status == 1
    last = errors.splitlines()[-1]
    assert last.startswith("error: 1 of the sweep's jobs failed")
    assert "optim.weight_decay=-1: must be a finite number of at least 0" in last
    logs = "".join(path.read_text() for path in folder.parent.glob(".submitit/*/*_log.*"))
    assert "SIGUSR2: finishing the step and saving" in logs
    assert f"{folder.relative_to(folder.parents[3])}: going on from step " in logs
    gone_on, undisturbed = (load_checkpoint(run / "last.pt") for run in (folder, whole))
    assert gone_on["progress"]["finished"]
    assert same(gone_on["weights"], undisturbed["weights"])
    assert same(gone_on["optimizer"], undisturbed["optimizer"])
    assert metrics(folder) == metrics(whole)
