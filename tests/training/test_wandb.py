"""Weights & Biases never ends a run, and never prompts."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import wandb

from filmvqa.system.layout import RunLayout
from filmvqa.training.loggers import build_loggers
from filmvqa.training.settings import LoggerSettings
from filmvqa.training.trainer import Trainer
from tests.conftest import script_environment
from tests.training.tiny_runs import Runs, after_steps


@pytest.fixture(autouse=True)
def fresh_wandb(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Reset W&B, which reads its environment once, and hide the user's settings."""
    wandb.teardown()
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def log_two_records(folder: Path) -> None:
    _, logger = build_loggers(LoggerSettings(wandb=True, project="p"), RunLayout(folder), {"a": 1})
    for step in (1, 2):
        logger.log({"step": step, "loss": 2.0})
    logger.flush()
    logger.close()


@pytest.mark.parametrize(
    ("started", "warning"),
    [
        (Mock(side_effect=RuntimeError("no network")), "does not start (no network)"),
        (Mock(return_value=Mock(log=Mock(side_effect=OSError("gone")))), "stopped (gone)"),
    ],
)
def test_wandb_never_stops_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys, started: Mock, warning: str
) -> None:
    monkeypatch.setattr(wandb, "init", started)
    log_two_records(tmp_path)
    assert (
        capsys.readouterr().err == f"warning: logger=wandb: W&B {warning}; continuing without it\n"
    )


def test_wandb_without_a_network_logs_offline(tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # no server
    monkeypatch.setattr("filmvqa.training.wandb_logger.WANDB_TIMEOUT", 2.0)
    log_two_records(tmp_path)
    (warning,) = [x for x in capfd.readouterr().err.splitlines() if x.startswith("warning: ")]
    assert "W&B cannot log online" in warning
    assert "logging offline" in warning
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def children() -> list[int]:
    """The ids of this process's children."""
    numbers = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # the process has ended
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                numbers.append(int(path.parent.name))
    return numbers


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")
def test_wandb_killed_in_mid_run_is_one_warning(runs: Runs, monkeypatch, capfd) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    before, killed = children(), []

    def kill(trainer: Trainer, batch: Any) -> None:
        if trainer.state.step == 6:
            killed.extend(set(children()) - set(before))
            for number in killed:
                os.kill(number, signal.SIGKILL)

    after_steps(monkeypatch, kill)
    runs.train(run={"logger": LoggerSettings(wandb=True, project="p")})
    assert killed
    assert [r["step"] for r in runs.metrics() if "loss" in r] == [4, 8, 12, 16, 20, 24]
    (warning,) = [line for line in capfd.readouterr().err.splitlines() if "warning: " in line]
    assert "W&B stopped" in warning


class Terminal(io.StringIO):
    """A terminal that no one may read from."""

    def isatty(self) -> bool:
        return True

    def readline(self, size: int | None = -1) -> str:
        raise AssertionError("W&B prompted")

    read = readline


@pytest.mark.parametrize(
    ("key", "netrc"),
    [
        (None, None),
        (None, "machine example.org login me password x\n"),
        ("", "{"),
        ("short", None),
    ],
)
def test_wandb_without_a_usable_key_logs_offline_without_a_prompt(
    tmp_path: Path, monkeypatch, key: str | None, netrc: str | None
) -> None:
    if key is not None:
        monkeypatch.setenv("WANDB_API_KEY", key)
    if netrc is not None:
        (tmp_path / ".netrc").write_text(netrc)
        (tmp_path / ".netrc").chmod(0o600)
    errors = Terminal()
    monkeypatch.setattr("sys.stderr", errors)
    monkeypatch.setattr("sys.stdin", Terminal())
    loggers = build_loggers(LoggerSettings(wandb=True, project="p"), RunLayout(tmp_path), {"a": 1})
    for logger in loggers:
        logger.log({"step": 1, "loss": 0.5})
        logger.close()
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))
    assert isinstance(sys.stdin, Terminal)
    assert errors.getvalue().count("warning: ") == 1
    assert f"`wandb sync {tmp_path}/wandb/offline-run-*`" in errors.getvalue()


def ids(folder: Path) -> list[str]:
    """The ids of W&B's runs in a folder."""
    return [path.name.split("-")[3] for path in sorted(folder.glob("wandb/offline-run-*"))]


def test_a_resumed_run_keeps_its_id_also_if_it_is_moved(tmp_path: Path, monkeypatch) -> None:
    """A copy gets another id, as do the jobs of a sweep, and a run with a damaged file."""
    monkeypatch.setenv("WANDB_MODE", "offline")

    def logged_id(folder: Path) -> str:
        log_two_records(folder)
        run_id = json.loads((folder / "wandb_run.json").read_text())["id"]
        assert run_id in ids(folder)
        return str(run_id)

    for name in ("job_1", "job_2"):
        (tmp_path / name).mkdir()
    first = logged_id(tmp_path / "job_1")
    assert logged_id(tmp_path / "job_1") == first
    assert logged_id(tmp_path / "job_2") != first
    moved = (tmp_path / "job_1").rename(tmp_path / "moved")
    assert logged_id(moved) == first
    copied = Path(shutil.copytree(moved, tmp_path / "copied", symlinks=True))
    second = logged_id(copied)
    assert second != first
    assert (logged_id(copied), logged_id(moved)) == (second, first)
    (moved / "wandb_run.json").write_bytes(b"\xff{")
    assert logged_id(moved) not in (first, second)
    monkeypatch.setenv("WANDB_RUN_ID", "given")
    log_two_records(copied)
    assert "given" in ids(copied)


def test_a_run_that_was_deleted_on_the_server_gets_another_id(tmp_path: Path, monkeypatch) -> None:
    init = Mock(side_effect=[Mock(), RuntimeError("x was previously created and deleted"), Mock()])
    monkeypatch.setattr(wandb, "init", init)
    log_two_records(tmp_path)
    log_two_records(tmp_path)
    first, again, new = (call.kwargs["id"] for call in init.call_args_list)
    assert first == again != new
    assert "mode" not in init.call_args.kwargs
    assert init.call_args.kwargs["resume"] == "allow"


@pytest.mark.parametrize("home", [None, "/dev/null"])
def test_without_a_home_folder_wandb_prints_nothing(tmp_path: Path, home: str | None) -> None:
    code = (
        "from filmvqa.training.loggers import *\n"
        f"settings, layout = LoggerSettings(wandb=True), RunLayout(Path({str(tmp_path)!r}))\n"
        "_, logger = build_loggers(settings, layout, {})\n"
        "logger.log({'step': 1, 'loss': 0.5})\nlogger.close()"
    )
    environment = {**script_environment(), "WANDB_MODE": "offline"}
    environment.pop("HOME", None)
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment | ({"HOME": home} if home else {}),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert (done.stdout, done.stderr) == ("", "")
    assert ids(tmp_path)


def test_wandb_keeps_to_the_mode_that_is_set(tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    log_two_records(tmp_path)
    assert not list(tmp_path.rglob("*.wandb"))
    assert "warning" not in capfd.readouterr().err
