"""Runs that are resumed or refused after their config changed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from filmvqa.checkpoints.checkpoint import load_checkpoint
from filmvqa.settings.effects import Effect
from filmvqa.settings.nested import flatten
from filmvqa.system.errors import UserError
from filmvqa.training.config_changes import config_changes, effect_of
from filmvqa.training.trainer import Trainer
from tests.conftest import REPOSITORY
from tests.training.tiny_runs import Runs

CONFIGS = REPOSITORY / "configs"
CONSTANT = {"schedule": "constant"}


def test_a_key_has_the_effect_of_its_field_or_of_its_group() -> None:
    for key, effect in {
        "trainer.max_steps": Effect.LENGTH, "trainer.compile": Effect.ROUNDING, "name": Effect.NONE,
        "trainer.batch_size": Effect.RESULT, "trainer.anything_new": Effect.RESULT,
        "logger.wandb": Effect.NONE, "optim.part_weight_decay.stem": Effect.RESULT,
        "data.h5": Effect.DATA, "data.fraction": Effect.RESULT, "data.backbone.stage": Effect.DATA,
        "data.generator.rules.colors": Effect.DATA, "data.a_world_that_is_not_here.x": Effect.DATA,
        "model.stem.strides": Effect.RESULT, "anything_new": Effect.RESULT,
    }.items():  # fmt: skip
        assert effect_of(key) is effect, key


@pytest.mark.parametrize("name", ["film", "mac"])
def test_keys_added_since_an_earlier_version_do_not_end_its_runs(name: str) -> None:
    """Each new key has an entry in ADDED_KEYS, or a default."""
    saved = load_checkpoint(REPOSITORY / f"tests/fixtures/checkpoint_3/{name}.pt")["config"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", overrides=[f"model={name}"]))
    now = flatten({k: v for k, v in config.items() if k not in ("run", "resume", "debug")})
    as_saved = {**now, **flatten(saved)}
    changes = config_changes(saved, as_saved)
    # The set has changed since; the hashes of a run's data decide.
    change = "data.generator.short_questions.train was None, now 0.25"
    assert changes == {Effect.DATA: [change]}


def test_a_key_that_the_version_before_did_not_have() -> None:
    """It has its default there; another value is a change."""
    old = {"trainer": {"batch_size": 3}, "train": {"init_from": None}}
    added = {"grad_clip_by_part": False}, {"init_from": None, "frozen_batch_norm": "eval"}
    new = {"trainer": old["trainer"] | added[0], "train": added[1]}
    assert not config_changes(old, new)
    new["trainer"]["grad_clip_by_part"] = True
    new["train"]["frozen_batch_norm"] = "train"
    assert config_changes(old, new).of(Effect.RESULT) == [
        "train.frozen_batch_norm was eval, now train",
        "trainer.grad_clip_by_part was False, now True",
    ]


def check_same_weights(runs: Runs, a: str, b: str) -> None:
    runs.assert_same(a, b, "weights", "ema_weights", "optimizer", "sampler")
    assert runs.last(a)["progress"]["best_accuracy"] == runs.last(b)["progress"]["best_accuracy"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"run": {"store": "stream"}}, "store was auto, now stream"),
        ({"checkpoint_steps": 7}, "trainer.checkpoint_steps was 3, now 7"),
        ({"checkpoint_minutes": 1}, "trainer.checkpoint_minutes was 10.0, now 1.0"),
        ({"max_epochs": 300}, "trainer.max_epochs was 80, now 300"),  # max_steps ends it
        ({"patience": 9}, "trainer.patience was None, now 9"),
        ({}, None),
    ],
    ids=str,
)
def test_changes_without_effect_give_the_same_bits(
    runs: Runs, change: dict, message: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    options = {"checkpoint_steps": 3, "ema_decay": 0.9}
    best = runs.train("whole", **options)
    runs.stop(13, "parts", **options)
    capsys.readouterr()
    runs.train("parts", **options | change)
    check_same_weights(runs, "whole", "parts")
    assert runs.metrics("whole") == runs.metrics("parts")
    out, err = capsys.readouterr()
    lines = [line for line in out.splitlines() if "its config changed" in line]
    folder = runs.folder / "parts"
    expected = f"{folder}: resuming although its config changed: {message}"
    assert lines == ([expected] if message else [])
    assert "warning" not in err
    # It is already finished with the changed config and with the first one.
    before = (folder / "last.pt").read_bytes()
    for now in (change, {}):
        assert runs.train("parts", **options | now) == best
        assert f"{folder}: already finished" in capsys.readouterr().out
    assert (folder / "last.pt").read_bytes() == before


def test_changes_of_rounding_are_warned_of(runs: Runs, capsys: pytest.CaptureFixture[str]) -> None:
    runs.stop(13)
    runs.train(channels_last=False)
    message = "resuming where bits may differ (trainer.channels_last was True, now False)"
    assert message in capsys.readouterr().err
    assert runs.metrics()[-1]["step"] == 24


@pytest.mark.parametrize("finished", [False, True])
def test_moved_data_are_accepted_and_other_data_refused(
    runs: Runs, finished: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    runs.train("whole")
    runs.train() if finished else runs.stop(13)
    moved = Path(shutil.copytree(runs.data, runs.folder / "moved"))
    other = Path(shutil.copytree(runs.data, runs.folder / "other"))
    shutil.copy(other / "train_questions.h5", other / "val_questions.h5")
    shutil.copy(other / "train_features_clevr_cnn.h5", other / "val_features_clevr_cnn.h5")
    before = (runs.folder / "run/last.pt").read_bytes()
    message = rf"val changed since the run began \(data\.h5 was {runs.data}, now {other}.*\); bring"
    with pytest.raises(UserError, match=message):
        runs.train(data=other)
    assert (runs.folder / "run/last.pt").read_bytes() == before
    capsys.readouterr()
    runs.train(data=moved)
    assert f"data.h5 was {runs.data}, now {moved}" in capsys.readouterr().out
    check_same_weights(runs, "whole", "run")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 16}, "trainer.batch_size was 32, now 16"),
        ({"precision": "bfloat16"}, "trainer.precision was auto, now bfloat16"),
        ({"questions_per_image": 2}, "trainer.questions_per_image was 1, now 2"),
        ({"eval_every": 4}, "trainer.eval_every was 8, now 4"),
        ({"val_sample": 10}, "trainer.val_sample was None, now 10"),
        ({"grad_clip": 1.0}, "trainer.grad_clip was None, now 1.0"),
        ({"seed": 1}, "seed was 0, now 1"),
        ({"optim": {"lr": 1.0}}, "optim.lr was 0.003, now 1.0"),
        ({"run": {"frozen_batch_norm": "train"}}, "train.frozen_batch_norm was eval, now train"),
        ({"max_steps": 48}, "max_steps was 24, now 48: with optim.schedule=cosine the learning rates of the 13"),
        ({"max_steps": 16}, "max_steps was 24, now 16: with optim.schedule=cosine the learning rates of the 13"),
        ({"max_steps": 8, "optim": CONSTANT}, "optim.schedule was cosine, now constant"),
    ],
    ids=str,
)  # fmt: skip
def test_changes_of_the_result_are_refused_by_key(runs: Runs, change: dict, message: str) -> None:
    runs.stop(13)
    before = {p.name: p.read_bytes() for p in (runs.folder / "run").iterdir()}
    with pytest.raises(UserError) as caught:
        runs.train(**change)
    assert message in str(caught.value)
    assert {p.name: p.read_bytes() for p in (runs.folder / "run").iterdir()} == before


def losses_of_steps(records: list[dict]) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in records if "loss" in record}


@pytest.mark.parametrize("log_every", [4, 7])
@pytest.mark.parametrize("end", [8, 10])
def test_a_finished_run_is_trained_longer_as_if_never_finished(
    runs: Runs, log_every: int, end: int
) -> None:
    """Also the means of losses, after the shorter run's last record, which the long run lacks, and
    with records at other steps than before."""
    runs.train("long", optim=CONSTANT, log_every=1)
    runs.train(optim=CONSTANT, max_steps=end)
    first = runs.metrics()
    runs.train(optim=CONSTANT, log_every=log_every)
    records = runs.metrics()
    assert records[: len(first)] == first
    runs.assert_same("long", "run", "weights", "optimizer", "sampler", "schedule")
    per_step = losses_of_steps(runs.metrics("long"))
    since = 0
    for step, loss in losses_of_steps(records).items():
        window = [per_step[k] for k in range(since + 1, step + 1)]
        assert loss == pytest.approx(sum(window) / len(window), rel=1e-6)
        since = step
    later = [step for step in losses_of_steps(records) if step > end]
    assert later == [s for s in range(end + 1, 25) if s % log_every == 0 or s == 24]
    steps = [r["step"] for r in records if "val_accuracy" in r]
    assert steps == sorted({8, 16, 24, end})


def test_another_log_every_in_the_middle_of_a_window(runs: Runs) -> None:
    """The next record is of all steps since the last record."""
    runs.train("whole", log_every=1)
    runs.stop(13, log_every=10)
    runs.stop(15, log_every=9)  # saves a larger window
    runs.train(log_every=2)
    per_step = losses_of_steps(runs.metrics("whole"))
    losses = losses_of_steps(runs.metrics())
    assert list(losses) == [10, 16, 18, 20, 22, 24]
    assert losses[16] == pytest.approx(sum(per_step[k] for k in range(11, 17)) / 6, rel=1e-6)
    check_same_weights(runs, "whole", "run")


def test_a_constant_run_is_shortened_unless_it_is_past_the_end(runs: Runs) -> None:
    runs.train("short", optim=CONSTANT, max_steps=16)
    runs.stop(13, optim=CONSTANT)
    message = "max_steps was 24, now 8: the run is already at step 13, and would end at 8; raise"
    with pytest.raises(UserError, match=message):
        runs.train(optim=CONSTANT, max_steps=8)
    runs.train(optim=CONSTANT, max_steps=16)
    check_same_weights(runs, "short", "run")
    with pytest.raises(UserError, match="now 8: the run is already at step 16"):
        runs.train(optim=CONSTANT, max_steps=8)


@pytest.fixture
def never_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """No evaluation is better than the first."""
    monkeypatch.setattr(Trainer, "_scores", lambda self, loader, rows: rows < 0)


@pytest.mark.usefixtures("never_better")
def test_a_longer_run_says_that_patience_ended_it(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    for max_steps in (24, 32):
        options = {"eval_every": 4, "patience": 2, "max_steps": max_steps, "optim": CONSTANT}
        runs.train(**options)
    out = capsys.readouterr().out
    assert out.endswith("; it ended early: raise trainer.patience to continue\n")


@pytest.mark.usefixtures("never_better")
def test_patience_is_raised_after_an_early_stop_and_lowered(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = {"eval_every": 4}
    runs.train("whole", **options)
    runs.train(patience=2, **options)
    assert runs.last()["progress"]["step"] == 12
    capsys.readouterr()
    runs.train(patience=3, **options)
    assert "trainer.patience was 2, now 3" in capsys.readouterr().out
    assert runs.last()["progress"]["step"] == 16
    runs.stop(18, patience=None, **options)
    runs.train(patience=1, **options)  # ends at once
    progress = runs.last()["progress"]
    assert (progress["step"], progress["finished"]) == (18, True)
    runs.train(patience=1, **options)
    assert "already finished" in capsys.readouterr().out
    runs.train(**options)
    check_same_weights(runs, "whole", "run")
    assert [r["step"] for r in runs.metrics()] == [r["step"] for r in runs.metrics("whole")]
