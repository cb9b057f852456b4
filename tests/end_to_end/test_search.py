"""A search by several processes, one of which is killed."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import yaml

from filmvqa.checkpoints.checkpoint import load_checkpoint
from tests.conftest import start_script
from tests.end_to_end.workplace import TRAIN, succeed
from tests.scripts_server import ForkedScript
from tests.training.tiny_runs import metrics, same

pytest.importorskip("optuna")
pytestmark = [pytest.mark.processes, pytest.mark.slow]

SEARCH = [*TRAIN, "trainer.max_steps=60", "trainer.eval_every=20", "search.trials=3",
          "search.prune=false"]  # fmt: skip


def start(folder: Path, *arguments: str) -> ForkedScript:
    return start_script("search.py", *SEARCH, *arguments, cwd=folder)


def test_two_processes_one_of_which_is_killed_and_restarted(copy: Path) -> None:
    """The trials are ordinary runs, which other scripts can read."""
    folder = copy / "outputs/demo/search"
    processes = [start(copy), start(copy)]
    deadline = time.monotonic() + 120
    while len(list(folder.glob("*/metrics.jsonl"))) < 2:  # each process trains another trial
        assert time.monotonic() < deadline
        time.sleep(0.05)
    processes[0].kill()
    processes[0].communicate()
    processes[0] = start(copy, "debug=true")
    for process in processes:
        _, errors = process.communicate(timeout=240)
        assert process.returncode == 0, errors[-2000:]
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == [
        "trial_0000", "trial_0001", "trial_0002",
    ]  # fmt: skip
    for run in folder.glob("trial_*"):
        assert load_checkpoint(run / "last.pt")["progress"]["finished"]
    report = succeed("sweep_report.py", "dir=outputs/demo/search", cwd=copy)
    assert "| optim.weight_decay |" in report
    assert report.count("\n| ") == 4  # the line below the header and three trials
    succeed("evaluate.py", "checkpoint=outputs/demo/search/trial_0001/best.pt", cwd=copy)

    value = yaml.safe_load((folder / "trial_0001/config.yaml").read_text())["optim"]["weight_decay"]
    alone = [f"optim.weight_decay={value!r}", "run=alone"]
    succeed("train.py", *[o for o in SEARCH if not o.startswith("search.")], *alone, cwd=copy)
    runs = folder / "trial_0001", copy / "outputs/demo/alone"
    trial, single = (load_checkpoint(run / "last.pt") for run in runs)
    assert same(trial["weights"], single["weights"])
    assert metrics(runs[0]) == metrics(runs[1])
    assert trial["config"] == single["config"]
