from __future__ import annotations

import errno
import io
import json
import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch
import yaml

from filmvqa.checkpoints.checkpoint import (
    FORMAT,
    load_checkpoint,
    model_from_checkpoint,
    save_checkpoint,
)
from filmvqa.cli.messages import explain
from filmvqa.evaluation.batches import Loader, open_loader
from filmvqa.models import MODELS, build_model, targets_of
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.devices import choose_device
from filmvqa.system.errors import UserError
from filmvqa.system.layout import RunLayout
from filmvqa.training.loggers import JsonlLogger, WandbLogger, build_loggers
from filmvqa.training.optimizer import build_optimizer, build_schedule
from filmvqa.training.settings import LoggerSettings, OptimSettings, TrainerSettings
from filmvqa.training.state import compile_parts
from filmvqa.training.trainer import Trainer
from tests.conftest import data_in
from tests.models.small_models import SMALL
from tests.training.tiny_runs import LARGER, metrics, same, train


def test_a_run_leaves_what_it_should(tmp_path: Path, tiny_set: Path) -> None:
    best = train(tmp_path / "run", tiny_set)
    assert {p.name for p in (tmp_path / "run").iterdir()} == {
        "config.yaml", "metrics.jsonl", "last.pt", "best.pt", "provenance.json",
        ".lock",
    }  # fmt: skip
    assert yaml.safe_load((tmp_path / "run/config.yaml").read_text())["seed"] == 0
    records = metrics(tmp_path / "run")
    assert [r["step"] for r in records if "loss" in r] == [4, 8, 12, 16, 20, 24]
    evaluations = [r for r in records if "val_accuracy" in r]
    assert [r["step"] for r in evaluations] == [8, 16, 24]
    assert max(r["val_accuracy"] for r in evaluations) == best
    assert all(r["gap"] == r["train_accuracy"] - r["val_accuracy"] for r in evaluations)


def test_the_same_seed_gives_the_same_bits_and_another_does_not(
    tmp_path: Path, tiny_set: Path
) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        train(tmp_path / name, tiny_set, seed=seed)
    a, b, c = (load_checkpoint(tmp_path / n / "last.pt") for n in "abc")
    assert same(a, b)
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    assert not same(a["weights"], c["weights"])


def test_a_finished_run_is_not_run_again_and_another_config_is_refused(
    tmp_path: Path, tiny_set: Path, capsys
) -> None:
    best = train(tmp_path / "run", tiny_set, max_steps=8)
    stamp = (tmp_path / "run/last.pt").stat().st_mtime_ns
    assert train(tmp_path / "run", tiny_set, max_steps=8) == best
    assert "finished already" in capsys.readouterr().out
    assert (tmp_path / "run/last.pt").stat().st_mtime_ns == stamp
    with pytest.raises(UserError, match=r"trainer\.batch_size was 32, now 16"):
        train(tmp_path / "run", tiny_set, max_steps=8, batch_size=16)
    assert (tmp_path / "run/last.pt").stat().st_mtime_ns == stamp


def test_early_stopping(tmp_path: Path, tiny_set: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scores = iter([0.5, 0.6, 0.6, 0.4, 0.9])
    monkeypatch.setattr(
        "filmvqa.training.trainer.Trainer._scores",
        lambda self, loader, rows: (
            torch.arange(len(rows)) < next(scores) * len(rows)
            if loader is self.val_loader
            else torch.ones(len(rows))
        ),
    )
    assert train(tmp_path / "run", tiny_set, max_steps=40, patience=2) == 0.6
    assert load_checkpoint(tmp_path / "run/last.pt")["progress"]["step"] == 32
    assert load_checkpoint(tmp_path / "run/best.pt")["progress"]["step"] == 16


@pytest.mark.parametrize(
    "name", [name for name in MODELS if name != "qtype" and targets_of(name) == "answers"]
)  # qtype only counts, and masks are learned in test_masks
def test_sixty_four_questions_are_learned_by_heart(name: str, tiny_set: Path) -> None:
    torch.manual_seed(0)
    vocabulary = Vocabulary.load(tiny_set / "vocab.json")
    loader = open_loader(data_in(tiny_set), "train", vocabulary, 64, torch.device("cpu"))
    model = build_model(
        name, vocab_size=len(vocabulary.question), num_answers=len(vocabulary.answer),
        feature_shape=loader.store.shape, **LARGER[name],
    )  # fmt: skip
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    batch = loader.batch(torch.arange(64))
    for _ in range(300):
        logits = model(batch.features, batch.questions, batch.image_of_question)
        right = (logits.argmax(1) == batch.targets).float().mean()
        if right == 1:
            break
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(logits, batch.targets).backward()
        optimizer.step()
    assert right == 1


def test_coupled_and_decoupled_weight_decay() -> None:
    """Without a gradient Adam's L2 moves a weight by the rate, AdamW shrinks it by rate × decay."""
    for name, expected in (("adam", 2.0 - 0.1), ("adamw", 2.0 * (1 - 0.1 * 0.5))):
        layer = torch.nn.Linear(1, 1, bias=False)
        layer.weight.data.fill_(2.0)
        optimizer = build_optimizer(layer, OptimSettings(name=name, lr=0.1, weight_decay=0.5))
        layer.weight.grad = torch.zeros_like(layer.weight)
        optimizer.step()
        assert layer.weight.item() == pytest.approx(expected, abs=1e-5)
    with pytest.raises(UserError, match=r"optim\.name='sgd': must be one of adam, adamw"):
        OptimSettings(name="sgd")
    with pytest.raises(UserError, match=r"optim\.lr=-1: must be a finite number above 0"):
        OptimSettings(lr=-1)


def test_schedules() -> None:
    def rates(name: str) -> list[float]:
        optimizer = torch.optim.Adam(torch.nn.Linear(1, 1).parameters(), lr=1.0)
        schedule = build_schedule(optimizer, OptimSettings(schedule=name, warmup_steps=4), 20)
        out = []
        for _ in range(21):
            out.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return out

    constant, cosine = rates("constant"), rates("cosine")
    assert constant[:5] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])
    assert set(constant[4:]) == {1.0}
    assert cosine[:5] == pytest.approx(constant[:5])
    assert cosine[12] == pytest.approx(0.5)
    assert cosine[20] == pytest.approx(0, abs=1e-9)
    with pytest.raises(UserError, match="linear"):
        OptimSettings(schedule="linear")


def test_checkpoints_that_are_none_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "none.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "text.pt")
    torch.save({"weights": {}}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="no checkpoint of this project"):
        load_checkpoint(tmp_path / "other.pt")
    torch.save({"format": "filmvqa-checkpoint-2", "weights": {}}, tmp_path / "last.pt")
    with pytest.raises(
        UserError, match=r"is 'filmvqa-checkpoint-2', not .*; go on with the version"
    ):
        load_checkpoint(tmp_path / "last.pt")
    (tmp_path / "last.pt").write_bytes((tmp_path / "other.pt").read_bytes()[:-100])
    with pytest.raises(UserError, match=r"\); delete it to train from the beginning"):
        load_checkpoint(tmp_path / "last.pt")
    (tmp_path / "best.pt").touch()
    with pytest.raises(
        UserError, match=r"\); copy best\.pt over it to go on from there, or delete"
    ):
        load_checkpoint(tmp_path / "last.pt")
    torch.save({"format": FORMAT, "model": {"name": "film"}}, tmp_path / "bare.pt")
    with pytest.raises(UserError, match="'model' is missing or broken"):
        load_checkpoint(tmp_path / "bare.pt")


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EMFILE, errno.EIO, errno.ENOMEM, errno.ESTALE]
)
@pytest.mark.parametrize("reading", [False, True])
def test_a_checkpoint_that_the_system_refuses_to_read_may_be_whole(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reading: bool
) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(b"whatever it is")

    def refuse(self: Path) -> bytes:  # only an error of opening names its file
        raise OSError(number, os.strerror(number), *([] if reading else [str(self)]))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
        load_checkpoint(path)
    line = explain(caught.value)
    assert line.startswith(f"{path}: {os.strerror(number)}; ")
    assert not re.search("delet|copy|train|readable", line.removeprefix(str(path)))


def test_too_little_memory_for_a_checkpoint_says_nothing_about_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "last.pt"
    torch.save({"format": FORMAT}, path)
    for target, error in (
        ("torch.load", RuntimeError("DefaultCPUAllocator: can't allocate memory")),
        ("torch.load", MemoryError()),
        ("pathlib.Path.read_bytes", MemoryError()),
    ):
        with monkeypatch.context() as patched:
            patched.setattr(target, Mock(side_effect=error))
            with pytest.raises(
                UserError, match=r"last\.pt: too little memory to read it; free some"
            ):
                load_checkpoint(path)


class Evil:
    def __reduce__(self) -> tuple:
        return (Path("evil-was-here").touch, ())


def test_a_checkpoint_cannot_run_code(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": FORMAT, "x": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "evil.pt")
    assert not (tmp_path / "evil-was-here").exists()


def test_checkpoints_that_do_not_fit_themselves_are_refused(tmp_path: Path, tiny_set: Path) -> None:
    train(tmp_path / "run", tiny_set, max_steps=8)
    path = tmp_path / "run/last.pt"
    content = load_checkpoint(path)
    model, vocabulary = model_from_checkpoint(content, path)
    assert not model.training
    assert vocabulary == Vocabulary.load(tiny_set / "vocab.json")
    wider = {**content["model"], "kwargs": {**content["model"]["kwargs"], "channels": 13}}
    smaller = {k: dict(list(v.items())[:-1]) for k, v in content["vocabulary"].items()}
    huge = {**content["model"], "kwargs": {**content["model"]["kwargs"], "channels": 10**7}}
    for change, message in (
        ({"model": {**content["model"], "name": "filmed"}}, "model.name='filmed'"),
        ({"model": {**content["model"], "kwargs": {"size": 3}}}, "do not fit"),
        ({"model": {"name": ["film"], "kwargs": {}}}, "do not fit"),
        ({"model": wider}, "do not fit"),
        ({"model": huge}, "do not fit"),
        ({"vocabulary": {"question": 3, "program": {}, "answer": {}}}, "vocabulary is broken"),
        ({"vocabulary": smaller}, "its vocabulary has"),
    ):
        save_checkpoint(tmp_path / "bad.pt", {**content, **change})
        with pytest.raises(UserError, match=message):
            model_from_checkpoint(load_checkpoint(tmp_path / "bad.pt"), tmp_path / "bad.pt")


def test_jsonl_forgets_what_comes_after_the_checkpoint(tmp_path: Path, capsys) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n{"step": 2}\n{"step": 3}\n{"ste')
    logger = JsonlLogger(path, records=2)
    logger.log({"step": 3, "loss": 1.0})
    logger.close()
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2, 3]
    assert capsys.readouterr().err == ""
    path.write_text('{"step": 1}\n{"step')  # not what this project leaves, but somebody else
    JsonlLogger(path, records=2).close()
    assert path.read_text() == '{"step": 1}\n'
    assert "has 1 of the 2 records" in capsys.readouterr().err


def test_wandb_never_stops_a_run(tmp_path: Path, monkeypatch, capsys) -> None:
    import wandb

    def fail(**options: Any) -> None:
        raise RuntimeError("no network")

    monkeypatch.setattr(wandb, "init", fail)
    logger = WandbLogger(tmp_path, "p", "r", {})
    logger.log({"step": 1, "loss": 2.0})
    logger.flush()
    logger.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "warning: W&B does not start (no network); going on without it"

    class Dies:
        def log(self, *arguments: Any, **options: Any) -> None:
            raise OSError("gone")

    monkeypatch.setattr(wandb, "init", lambda **options: Dies())
    logger = WandbLogger(tmp_path, "p", "r", {})
    for step in (1, 2):
        logger.log({"step": step})
    logger.close()
    (line,) = capsys.readouterr().err.splitlines()
    assert line == "warning: W&B stopped (gone); going on without it"


def test_wandb_without_a_network_logs_offline(tmp_path: Path, monkeypatch, capfd) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("filmvqa.training.loggers.WANDB_TIMEOUT", 2.0)
    logger = WandbLogger(tmp_path, "p", "r", {})
    logger.log({"step": 1, "loss": 2.0})
    logger.close()
    warned = [x for x in capfd.readouterr().err.splitlines() if x.startswith("warning: ")]
    assert len(warned) == 1
    assert "W&B cannot log online" in warned[0]
    assert "logging offline" in warned[0]
    assert list(tmp_path.glob("wandb/offline-run-*/*.wandb"))


def children() -> list[int]:
    """Processes that this one has started itself."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # ended meanwhile
            if int(path.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(path.parent.name))
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="processes are found in /proc")
def test_wandb_killed_in_mid_run_is_one_warning(
    tmp_path: Path, tiny_set: Path, monkeypatch, capfd
) -> None:
    import wandb

    wandb.teardown()  # of tests before this one
    monkeypatch.setenv("WANDB_MODE", "offline")
    before = children()
    step, killed = Trainer.step, []

    def kills(self: Trainer, batch: Any) -> None:
        step(self, batch)
        if self.state.step == 6:
            killed.extend(set(children()) - set(before))
            for number in killed:
                os.kill(number, signal.SIGKILL)

    monkeypatch.setattr(Trainer, "step", kills)
    train(tmp_path / "run", tiny_set, run={"logger": LoggerSettings(wandb=True, project="p")})
    assert killed
    assert [r["step"] for r in metrics(tmp_path / "run") if "loss" in r] == [4, 8, 12, 16, 20, 24]
    said = [line for line in capfd.readouterr().err.splitlines() if "warning: " in line]
    assert len(said) == 1
    assert "W&B stopped" in said[0]


class Terminal(io.StringIO):
    """A terminal at which nobody sits."""

    def isatty(self) -> bool:
        return True

    def readline(self, size: int | None = -1) -> str:
        raise AssertionError("somebody was asked")

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
def test_wandb_without_a_usable_key_logs_offline_and_asks_nobody(
    tmp_path: Path, monkeypatch, key: str | None, netrc: str | None
) -> None:
    import wandb

    wandb.teardown()  # W&B reads its environment once
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
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


def test_wandb_keeps_to_the_mode_that_is_set(tmp_path: Path, monkeypatch, capfd) -> None:
    import wandb

    wandb.teardown()
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    logger = WandbLogger(tmp_path, "p", "r", {})
    logger.log({"step": 1, "loss": 0.5})
    logger.close()
    assert not list(tmp_path.rglob("*.wandb"))
    assert "warning" not in capfd.readouterr().err


def test_senseless_settings_are_refused() -> None:
    with pytest.raises(UserError, match="float16"):
        TrainerSettings(precision="float16")
    with pytest.raises(UserError, match="batch_size=0"):
        TrainerSettings(batch_size=0)
    with pytest.raises(UserError, match="device='gpu'"):
        choose_device("gpu")


def test_compiled_parts_compute_the_same() -> None:
    torch.manual_seed(0)
    model = build_model(
        "film", vocab_size=9, num_answers=5, feature_shape=(6, 4, 4), **SMALL["film"]
    )
    names = list(model.state_dict())
    features, questions = torch.randn(3, 6, 4, 4), torch.tensor([[1, 4, 2], [1, 2, 0], [1, 5, 2]])
    expected = model.eval()(features, questions)
    compile_parts(model, backend="eager")  # traced, but not made by a compiler
    assert torch.allclose(model(features, questions), expected, atol=1e-6)
    assert list(model.state_dict()) == names


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("store", ["device", "memory", "stream"])
def test_steps_do_not_wait_for_the_device(
    tmp_path: Path, tiny_set: Path, store: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def strict(method: Any) -> Any:
        def run(*arguments: Any) -> Any:
            torch.cuda.set_sync_debug_mode("error")
            try:
                return method(*arguments)
            finally:
                torch.cuda.set_sync_debug_mode("default")

        return run

    for owner, name in ((Trainer, "step"), (Loader, "batch")):
        monkeypatch.setattr(owner, name, strict(getattr(owner, name)))
    train(tmp_path / "run", tiny_set, run={"device": "cuda", "store": store})


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="descriptors are listed in /proc")
@pytest.mark.parametrize("store", ["device", "stream"])
def test_a_run_leaves_no_descriptor_open(tmp_path: Path, tiny_set: Path, store: str) -> None:
    """One that ends, and one that is refused once its data are open."""
    train(tmp_path / "first", tiny_set, max_steps=8, run={"store": store})
    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    train(tmp_path / "run", tiny_set, max_steps=8, run={"store": store})
    with pytest.raises(UserError, match="channels"):
        train(tmp_path / "refused", tiny_set, model={"channels": -1}, run={"store": store})
    assert len(list(Path("/proc/self/fd").iterdir())) == descriptors
