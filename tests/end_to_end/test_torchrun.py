"""Training, extraction and evaluation as several processes of torchrun.

Where torchrun itself does not matter, the tests fork two processes with the variables that it sets:
starting three processes that import torch takes longer than their work.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from filmvqa.checkpoints.checkpoint import load_checkpoint
from tests.conftest import REPOSITORY, nobody_is_left, script_environment, start_together
from tests.end_to_end.workplace import DATA, TRAIN, succeed
from tests.scripts_server import ForkedScript
from tests.training.tiny_runs import metrics, same

pytestmark = [pytest.mark.processes, pytest.mark.slow]

LONG = ["trainer.max_steps=100000", "trainer.eval_every=100000", "trainer.checkpoint_steps=5"]


def start_torchrun(
    script: str, *arguments: str, cwd: Path, options: tuple[str, ...] = ()
) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
    return subprocess.Popen(
        [*command, *options, str(REPOSITORY / "scripts" / script), *arguments],
        cwd=cwd, env=script_environment(), text=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip


def together(script: str, *arguments: str, cwd: Path) -> str:
    """The output of two processes."""
    out, errors, statuses = ended(start_together(script, *arguments, cwd=cwd))
    assert statuses == [0, 0], errors[-3000:]
    return out


def ended(processes: list[ForkedScript]) -> tuple[str, str, list[int]]:
    """The standard output and error of processes that end, and their statuses."""
    printed = [process.communicate(timeout=300) for process in processes]
    out, errors = ("".join(texts) for texts in zip(*printed, strict=True))
    return out, errors, [process.wait() for process in processes]


def error_lines(errors: str) -> list[str]:
    """The errors on standard error, without progress bars and torchrun's messages."""
    return re.findall(r"\berror: .*", errors)


def workers(torchrun: subprocess.Popen[str]) -> list[int]:
    """The processes that torchrun started, by rank."""
    path = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children")
    ranks = {}
    for child in map(int, path.read_text().split()):
        variables = Path(f"/proc/{child}/environ").read_bytes().split(b"\0")
        ranks.update({int(v[5:]): child for v in variables if v.startswith(b"RANK=")})
    return [child for _, child in sorted(ranks.items())]


def has_default_action(process: int, number: int) -> bool:
    """Whether a process neither handles nor ignores a signal."""
    status = Path(f"/proc/{process}/status").read_text()
    masks = re.findall(r"^Sig(?:Ign|Cgt):\s*(\w+)$", status, re.MULTILINE)
    return len(masks) == 2 and not any(int(mask, 16) >> (number - 1) & 1 for mask in masks)


def wait_until_saved(
    last: Path, before: int, processes: Sequence[ForkedScript | subprocess.Popen[str]]
) -> None:
    """Wait until a training run has saved its state since ``before``."""
    deadline = time.monotonic() + 120
    while _written(last) == before and time.monotonic() < deadline:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.05)
    assert _written(last) != before


def training(cwd: Path, run: str, *arguments: str) -> list[ForkedScript]:
    """A long training run of two processes, which has saved its state once."""
    last = cwd / "outputs/demo" / run / "last.pt"
    before = _written(last)
    processes = start_together("train.py", *TRAIN, *LONG, f"run={run}", *arguments, cwd=cwd)
    wait_until_saved(last, before, processes)
    return processes


def _written(path: Path) -> int:
    return path.stat().st_mtime_ns if path.exists() else 0


def test_every_stage_has_the_result_of_one_process(workplace: Path, tmp_path: Path) -> None:
    """Extraction and evaluation bit for bit. A training run without a name has one folder, and only
    one of its processes prints."""
    place = Path(shutil.copytree(workplace, tmp_path / "place"))
    for path in place.glob("data/tiny/h5/*_features_*"):
        path.unlink()
    shutil.rmtree(place / "outputs/demo/film/evaluation", ignore_errors=True)
    assert together("extract_features.py", *DATA, "batch_size=4", cwd=place).count("written") == 3
    shutil.rmtree(tmp_path / "one", ignore_errors=True)
    one = Path(shutil.copytree(workplace, tmp_path / "one"))
    for path in one.glob("data/tiny/h5/*_features_*"):
        path.unlink()
    succeed("extract_features.py", *DATA, "batch_size=4", cwd=one)
    for path in one.glob("data/tiny/h5/*_features_*"):
        assert path.read_bytes() == (place / path.relative_to(one)).read_bytes()
    evaluate = ["checkpoint=outputs/demo/film/last.pt", "split=val", "batch_size=7"]
    table = together("evaluate.py", *evaluate, cwd=place)
    assert table == succeed("evaluate.py", *evaluate, cwd=one)
    for path in (one / "outputs/demo/film/evaluation").glob("val*"):
        assert path.read_bytes() == (place / path.relative_to(one)).read_bytes()
    # The flag of torch.distributed.launch; DeepSpeed's has an underscore.
    out = together("train.py", "--local-rank=0", *TRAIN, "name=unnamed", cwd=place)
    assert out.count("weights by part") == 1
    (run,) = (place / "outputs/unnamed").iterdir()
    assert load_checkpoint(run / "last.pt")["progress"]["finished"]


@pytest.mark.parametrize("rank", [0, 1])
def test_if_a_process_is_killed_the_other_ends_with_one_line(copy: Path, rank: int) -> None:
    processes = training(copy, "killed")
    processes[rank].kill()
    started = time.monotonic()
    _, errors, statuses = ended(processes)
    assert time.monotonic() - started < 15
    assert statuses[rank] == -signal.SIGKILL
    assert statuses[1 - rank] == 1
    (line,) = error_lines(errors)
    assert line == (
        "error: another of the 2 processes has ended; run the same command again to resume"
    )
    step = load_checkpoint(copy / "outputs/demo/killed/last.pt")["progress"]["step"]
    again = training(copy, "killed")
    for process in again:
        process.terminate()
    assert f"resuming from step {step}" in ended(again)[0]


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_process_that_waits_for_one_that_never_starts(
    copy: Path, rank: int, number: int
) -> None:
    """It waits in torch's C++, which does not run Python's signal handlers."""
    (process,) = start_together("train.py", *TRAIN, "run=alone", cwd=copy, ranks=[rank])
    deadline = time.monotonic() + 60
    while not has_default_action(process.pid, signal.SIGINT):  # at first Python's handler is set
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(1)  # until it waits
    assert process.poll() is None
    os.kill(process.pid, number)
    process.communicate(timeout=15)
    assert process.returncode == -number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP, signal.SIGUSR1])
def test_a_signal_to_torchrun_saves_the_step_in_all_processes(
    copy: Path, number: signal.Signals
) -> None:
    """SIGUSR1 kills torchrun itself; Linux then sends SIGTERM to its processes."""
    process = start_torchrun(
        "train.py", *TRAIN, *LONG, "run=stopped", "trainer.checkpoint_minutes=0.01", cwd=copy
    )
    last = copy / "outputs/demo/stopped/last.pt"
    wait_until_saved(last, 0, [process])
    process.send_signal(number)
    _, errors = process.communicate(timeout=200)
    (line,) = error_lines(errors)
    name = "SIGTERM" if number == signal.SIGUSR1 else number.name
    assert f"{name}: stopped after step {load_checkpoint(last)['progress']['step']} of " in line


def test_if_torchrun_is_killed_its_processes_end(copy: Path) -> None:
    process = start_torchrun("train.py", *TRAIN, *LONG, "run=orphans", cwd=copy)
    wait_until_saved(copy / "outputs/demo/orphans/last.pt", 0, [process])
    left = workers(process)
    assert len(left) == 2
    process.kill()
    process.communicate()
    nobody_is_left(copy)


def test_torchrun_restarts_a_run_without_a_name_in_its_folder(copy: Path) -> None:
    arguments = [*TRAIN, "name=restarted", "trainer.max_steps=80", "trainer.checkpoint_steps=10"]
    process = start_torchrun("train.py", *arguments, cwd=copy, options=("--max-restarts=2",))
    folder = copy / "outputs/restarted"
    while not list(folder.glob("*/last.pt")) and process.poll() is None:
        time.sleep(0.02)
    os.kill(workers(process)[1], signal.SIGKILL)
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors[-3000:]
    assert "resuming from step" in out
    (run,) = folder.iterdir()
    whole = copy / "outputs/restarted_not/film"
    together(
        "train.py", *arguments[:-3], "name=restarted_not", "run=film", *arguments[-2:], cwd=copy
    )
    assert metrics(run) == metrics(whole)
    saved = [load_checkpoint(path / "last.pt") for path in (run, whole)]
    assert same(saved[0]["weights"], saved[1]["weights"])


def test_errors_of_all_processes_are_one_line(copy: Path) -> None:
    process = start_torchrun("train.py", *TRAIN, "run=film", "data.train_split=other", cwd=copy)
    _, errors = process.communicate(timeout=300)
    (line,) = error_lines(errors)
    assert "other" in line


def test_a_program_for_one_process_refuses_several(copy: Path) -> None:
    first, second = start_together("preprocess_questions.py", *DATA, cwd=copy)
    assert first.wait(timeout=300) == 1
    second.terminate()  # as torchrun does after the first has failed
    _, errors, _ = ended([first, second])
    assert error_lines(errors) == [
        "error: preprocess_questions.py: runs as one process; start it without torchrun"
    ]
