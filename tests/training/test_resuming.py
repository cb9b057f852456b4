"""Runs that are stopped, killed or fail, and resumed."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import signal
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import h5py
import pytest
import torch

from filmvqa.checkpoints.checkpoint import save_checkpoint
from filmvqa.evaluation import provenance
from filmvqa.evaluation.provenance import _hash_code as hash_code
from filmvqa.questions.settings import CurriculumStage
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.determinism import random_state, restore_random_state
from filmvqa.system.errors import Interrupted, UserError
from filmvqa.system.locks import folder_lock
from filmvqa.system.signals import ENDING
from filmvqa.training import prepare
from filmvqa.training.trainer import Trainer
from tests.training.tiny_runs import Runs, stop_in_steps


@pytest.mark.parametrize(
    "options",
    [
        {"checkpoint_steps": None},
        {"ema_decay": 0.9, "film_penalty": 0.1, "run": {"fraction": 0.5}},
        {"name": "mac"},  # with dropout
        {"run": {"store": "stream"}},
        {"precision": "bfloat16", "run": {"store": "memory"}},
        {"questions_per_image": 4, "precision": "float32"},
        {"log_every": 7, "eval_every": 5, "optim": {"name": "adamw", "fused": False}},
        {"grad_clip": 0.5, "eval_every": None},
        {"model": {"reads": True, "sets": 2}, "program_loss": 0.5, "film_penalty": 0.1},
        {"shuffle": False, "questions_per_image": 2, "run": {"families": list(range(40))}},
        {"run": {"curriculum": [CurriculumStage(questions=500, program_length=9)]}},
    ],
    ids=str,
)
def test_an_interrupted_run_ends_with_the_same_bits(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, options: dict
) -> None:
    if "optim" in options:
        monkeypatch.setattr(torch.optim, "Adam", torch.optim.AdamW)
    runs.check_interrupted(5, 14, 25, **{"checkpoint_steps": 3, **options})


def test_a_run_interrupted_fifty_times_ends_with_the_same_bits(runs: Runs) -> None:
    """It is interrupted in each of its steps."""
    options = {"max_steps": 51, "checkpoint_steps": 1, "eval_every": 10}
    runs.check_interrupted(*range(2, 102, 2), **options)


@pytest.mark.parametrize("number", ENDING)
def test_a_signal_lets_the_step_finish_and_saves(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, capsys
) -> None:
    runs.train("whole")
    before = signal.getsignal(number)
    stop_in_steps(monkeypatch, (5, 18), lambda: os.kill(os.getpid(), number))
    for step in (5, 18):  # steps are counted over both runs: none is repeated
        message = f"{number.name}: stopped after step {step} of 24"
        with pytest.raises(Interrupted, match=message) as caught:
            runs.train("parts")
        assert caught.value.number == number
        assert f"{number.name}: finishing the step and saving" in capsys.readouterr().err
        assert signal.getsignal(number) == before
    runs.train("parts")
    runs.assert_same("whole", "parts")


@pytest.mark.parametrize("first", [None, signal.SIGTERM])
def test_a_clusters_warning_is_answered_when_the_state_is_saved(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, first: signal.Signals | None
) -> None:
    """The handler of the program that started the job is called once.

    Also if another signal comes first, as when a more urgent job takes the place of this one.
    """
    saved = []

    def queue_again(number: int, frame: Any) -> None:
        saved.append(runs.last()["progress"]["step"])
        raise SystemExit(144)

    def warn() -> None:
        for number in (first, signal.SIGUSR2) if first else (signal.SIGUSR2,):
            os.kill(os.getpid(), number)

    previous = signal.signal(signal.SIGUSR2, queue_again)
    try:
        with monkeypatch.context() as patch:
            stop_in_steps(patch, (5,), warn)
            with pytest.raises(SystemExit):
                runs.train()
        assert saved == [5]
        assert signal.getsignal(signal.SIGUSR2) is queue_again
    finally:
        signal.signal(signal.SIGUSR2, previous)
    runs.train()
    runs.train("whole")
    runs.assert_same("run", "whole")


def test_a_second_ctrl_c_stops_at_once(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    stop_in_steps(monkeypatch, (5,), lambda: [signal.raise_signal(signal.SIGINT) for _ in "12"])
    with pytest.raises(KeyboardInterrupt) as caught:
        runs.train()
    assert not isinstance(caught.value, Interrupted)
    assert not (runs.folder / "run/last.pt").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGXCPU])
def test_other_signals_may_come_many_times(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    """None of them interrupts the step or the saving, nor does Ctrl-C while saving.

    The end of a session sends SIGTERM and SIGHUP, the latter from the shell and from the system.
    """

    def send_all() -> None:
        for other in (number, number, *ENDING[1:]):
            signal.raise_signal(other)

    def save(path: Path, content: dict[str, Any]) -> None:
        send_all()
        signal.raise_signal(signal.SIGINT)
        save_checkpoint(path, content)

    stop_in_steps(monkeypatch, (5,), send_all)
    monkeypatch.setattr("filmvqa.training.trainer.save_checkpoint", save)
    with pytest.raises(Interrupted, match=f"{number.name}: stopped after step 5"):
        runs.train()
    assert runs.last()["progress"]["step"] == 5


def test_an_ignored_signal_stays_ignored(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    """As ``nohup`` ignores SIGHUP."""
    previous = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        stop_in_steps(monkeypatch, (5,), lambda: signal.raise_signal(signal.SIGHUP))
        runs.train()
    finally:
        signal.signal(signal.SIGHUP, previous)
    assert runs.last()["progress"]["finished"]


def test_the_state_is_saved_if_the_terminal_is_closed(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed = Mock(
        write=Mock(side_effect=OSError(errno.EIO, "Input/output error")), encoding="utf-8"
    )

    def close() -> None:
        monkeypatch.setattr("sys.stderr", closed)
        signal.raise_signal(signal.SIGHUP)

    stop_in_steps(monkeypatch, (5,), close)
    with pytest.raises(Interrupted):
        runs.train()
    assert closed.write.called
    assert runs.last()["progress"]["step"] == 5


def test_a_closed_pipe_of_scores_ends_a_saved_run(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tqdm.tqdm.write", Mock(side_effect=BrokenPipeError))
    with pytest.raises(BrokenPipeError):
        runs.train()
    assert runs.last()["progress"]["step"] == 8
    assert runs.best()["progress"]["step"] == 8


def test_a_signal_during_an_evaluation_leaves_it_to_the_resumed_run(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.train("whole")
    scores, calls = Trainer._scores, count(1)

    def signal_third(self: Trainer, *arguments: Any) -> torch.Tensor:
        if next(calls) == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return scores(self, *arguments)

    monkeypatch.setattr(Trainer, "_scores", signal_third)
    with pytest.raises(Interrupted, match="stopped after step 16"):
        runs.train("parts")
    assert [r["step"] for r in runs.metrics("parts") if "gap" in r] == [8]
    runs.train("parts")
    runs.assert_same("whole", "parts")


def test_last_pt_is_written_after_a_number_of_minutes(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[int] = []
    monkeypatch.setattr(
        "filmvqa.training.trainer.save_checkpoint",
        lambda path, content: written.append(content["progress"]["step"]),
    )
    runs.train("a", max_steps=6, eval_every=6, checkpoint_minutes=1e-9)
    assert written == [1, 2, 3, 4, 5, 6, 6, 6]  # the evaluation writes best.pt and last.pt
    written.clear()
    runs.train("b", max_steps=6, eval_every=6, checkpoint_minutes=5)
    assert written == [6, 6]


def test_another_process_in_the_same_folder_is_refused(runs: Runs) -> None:
    with folder_lock(runs.folder / "run"):
        before = set((runs.folder / "run").iterdir())
        with pytest.raises(UserError, match=rf"run: process {os.getpid()} on .* is using it"):
            runs.train()
        assert set((runs.folder / "run").iterdir()) == before
    runs.train(max_steps=2)


def test_room_for_checkpoints_is_asked_for_before_training(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs.train("whole", max_steps=2)
    size = (runs.folder / "whole/last.pt").stat().st_size

    def allow(free: float) -> None:
        monkeypatch.setattr("filmvqa.system.disk.free_space", lambda path: int(free))

    allow(1000)
    message = r"needs (.+) KiB, 1000 bytes are free; make room"
    with pytest.raises(UserError, match=message) as caught:
        runs.train(max_steps=2)
    needed = 1024 * float(re.search(message, str(caught.value))[1])  # type: ignore[index]
    assert 2 * size < needed < 4 * size
    assert not (runs.folder / "run/metrics.jsonl").exists()
    allow(needed + 1024)
    runs.train(max_steps=2)


def test_waiting_during_evaluations_is_not_counted(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = Trainer._scores

    def wait(self: Trainer, *arguments: Any) -> torch.Tensor:
        self.train_loader.waited += 100.0
        return scores(self, *arguments)

    monkeypatch.setattr(Trainer, "_scores", wait)
    runs.train()
    lines = map(json.loads, (runs.folder / "run/metrics.jsonl").read_text().splitlines())
    assert all(0 <= record["waited"] <= 1 for record in lines if "waited" in record)


def test_changed_inputs_are_refused(runs: Runs) -> None:
    runs.data = Path(shutil.copytree(runs.data, runs.folder / "data"))
    runs.stop(5)
    with h5py.File(runs.data / "val_questions.h5", "r+") as file:
        answers = file["answers"][:]
        answers[0] = 1 - min(answers[0], 1)
        file["answers"][:] = answers
        del file.attrs["sha256"]
    with pytest.raises(UserError, match="the questions of val changed since the run began"):
        runs.train()


def test_the_range_of_the_features_is_measured_once(
    runs: Runs, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first start measures it, and a checkpoint of an earlier version lacks it."""
    measure = Mock(wraps=prepare.feature_range)
    monkeypatch.setattr(prepare, "feature_range", measure)
    runs.train(max_steps=8, optim={"schedule": "constant"})
    first = runs.last()["feature_range"]
    runs.train(max_steps=16, optim={"schedule": "constant"})
    content = runs.last()
    assert content["progress"]["step"] == 16
    assert content["feature_range"] == first
    assert measure.call_count == 1
    del content["feature_range"]
    save_checkpoint(runs.folder / "run/last.pt", content)
    runs.train(max_steps=24, optim={"schedule": "constant"})
    assert runs.last()["feature_range"] == first
    assert measure.call_count == 2


def test_the_state_of_the_devices_generator_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only that of the GPU in use, whichever GPUs are visible then and now; none on a CPU."""
    generators = {0: "a", 1: "b"}

    def index(device: torch.device) -> int:
        return 0 if device.index is None else device.index

    def restore(state: str, device: torch.device) -> None:
        generators[index(device)] = state

    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: generators[index(device)])
    monkeypatch.setattr(torch.cuda, "set_rng_state", restore)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    cpu, first, second = map(torch.device, ("cpu", "cuda", "cuda:1"))
    assert random_state(cpu)["cuda"] == []
    state = random_state(second)
    assert state["cuda"] == ["b"]
    generators.pop(1)
    restore_random_state(state, first)  # now one GPU is visible
    assert generators == {0: "b"}
    earlier = state | {"cuda": ["c", "d"]}  # earlier versions saved the states of all visible GPUs
    restore_random_state(earlier, first)
    assert generators == {0: "c"}
    restore_random_state(earlier, second)
    assert generators == {0: "c", 1: "d"}
    torch.manual_seed(5)
    restore_random_state(state | {"cuda": []}, first)  # saved on a CPU
    restore_random_state(state, cpu)  # resumed on a CPU
    assert generators == {0: "c", 1: "d"}
    assert torch.equal(torch.get_rng_state(), state["cpu"])


def test_a_checkpoint_that_is_a_broken_link_is_no_new_run(runs: Runs) -> None:
    (runs.folder / "run").mkdir()
    (runs.folder / "run/last.pt").symlink_to(runs.folder / "scratch/last.pt")
    with pytest.raises(
        UserError, match=r"last\.pt: is a link to .*scratch/last\.pt, which is missing"
    ):
        runs.train()
    assert not (runs.folder / "run/metrics.jsonl").exists()


def test_a_run_records_its_environment_and_inputs(runs: Runs) -> None:
    runs.train(max_steps=8)
    record = json.loads((runs.folder / "run/provenance.json").read_text())
    (environment,) = record["environments"]
    assert environment["from_step"] == 0
    assert environment["torch"] == torch.__version__
    assert environment["device"] == "cpu"
    assert environment["threads"] == torch.get_num_threads()
    assert {"commit", "clean", "processor", "python", "filmvqa"} <= set(environment)
    assert record["inputs"]["vocabulary"] == Vocabulary.load(runs.data / "vocab.json").sha256()
    for split in ("train", "val"):
        assert len(record["inputs"][split]["questions"]) == 64
        assert len(record["inputs"][split]["features"]) == 64
        assert record["inputs"][split]["feature_spec"]["backbone"] == "clevr_cnn"
    content = runs.last()
    assert content["inputs"] == record["inputs"]
    assert content["progress"]["environments"] == record["environments"]


def test_another_environment_is_recorded(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    runs.stop(5)
    monkeypatch.setattr("filmvqa.training.restore.environment", lambda device: {"torch": "9.9"})
    runs.train()
    assert f"torch was {torch.__version__}, now 9.9" in capsys.readouterr().err
    record = json.loads((runs.folder / "run/provenance.json").read_text())
    assert [e["from_step"] for e in record["environments"]] == [0, 5]


def test_resuming_with_edited_code_is_warned_of(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys
) -> None:
    """As after an edited ``film()`` was undone."""
    runs.stop(5)
    monkeypatch.setattr(provenance, "_hash_code", lambda folder: hash_code(tmp_path))
    (tmp_path / "film.py").write_text("edited = True\n")
    runs.train()
    assert "resuming where bits may differ (code was " in capsys.readouterr().err
    before = hash_code(tmp_path)
    (tmp_path / "notes.txt").write_text("no code")
    assert hash_code(tmp_path) == before
    (tmp_path / "film.py").write_text("edited = False\n")
    assert hash_code(tmp_path) != before
