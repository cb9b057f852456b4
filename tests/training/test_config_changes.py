"""Runs that go on, or do not, after their config changed."""

from __future__ import annotations

import json
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
from tests.training.tiny_runs import metrics, same, train

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


@pytest.mark.parametrize(("name", "model"), [("film", "film"), ("mac", "mac")])
def test_keys_added_since_an_earlier_version_do_not_end_its_runs(name: str, model: str) -> None:
    """Each has an entry in ADDED_KEYS, or a default."""
    saved = load_checkpoint(REPOSITORY / f"tests/fixtures/checkpoint_3/{name}.pt")["config"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        config: Any = OmegaConf.to_container(compose("train", overrides=[f"model={model}"]))
    now = flatten({k: v for k, v in config.items() if k not in ("run", "resume", "debug")})
    as_saved = {**now, **flatten(saved)}
    assert not config_changes(saved, as_saved).by_effect


def test_a_key_that_the_version_before_did_not_have() -> None:
    """Has its default's value; another one is a change."""
    old = {"trainer": {"batch_size": 3}, "train": {"init_from": None}}
    added = {"grad_clip_by_part": False}, {"init_from": None, "frozen_batch_norm": "eval"}
    new = {"trainer": old["trainer"] | added[0], "train": added[1]}
    assert not config_changes(old, new).by_effect
    new["trainer"]["grad_clip_by_part"] = True
    new["train"]["frozen_batch_norm"] = "train"
    assert config_changes(old, new).of(Effect.RESULT) == [
        "train.frozen_batch_norm was eval, now train",
        "trainer.grad_clip_by_part was False, now True",
    ]


class StoppedError(Exception):
    pass


def stop_at(
    monkeypatch: pytest.MonkeyPatch, step: int, folder: Path, *arguments: Any, **options: Any
) -> None:
    """Train until a step of the run is done, which is saved."""
    right = Trainer.step

    def stops(self: Trainer, batch: Any) -> None:
        right(self, batch)
        if self.state.step == step:
            self._save(self.layout.last_checkpoint)
            raise StoppedError

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "step", stops)
        with pytest.raises(StoppedError):
            train(folder, *arguments, **options)


def check_same_weights(a: Path, b: Path) -> None:
    one, other = (load_checkpoint(folder / "last.pt") for folder in (a, b))
    for entry in ("weights", "ema_weights", "optimizer", "sampler"):
        assert same(one[entry], other[entry]), entry
    assert one["progress"]["best_accuracy"] == other["progress"]["best_accuracy"]


@pytest.mark.parametrize(
    ("change", "said"),
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
def test_what_changes_nothing_goes_on_to_the_same_bits(
    change: dict, said: str | None, tmp_path: Path, tiny_set: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    options = {"checkpoint_steps": 3, "ema_decay": 0.9}
    train(tmp_path / "whole", tiny_set, **options)
    stop_at(monkeypatch, 13, tmp_path / "parts", tiny_set, **options)
    capsys.readouterr()
    train(tmp_path / "parts", tiny_set, **options | change)
    check_same_weights(tmp_path / "whole", tmp_path / "parts")
    assert metrics(tmp_path / "whole") == metrics(tmp_path / "parts")
    out, err = capsys.readouterr()
    lines = [line for line in out.splitlines() if "its config changed" in line]
    folder = tmp_path / "parts"
    assert lines == ([f"{folder}: goes on though its config changed: {said}"] if said else [])
    assert "warning" not in err
    # Found finished, as the changed run and as the one before.
    for now in (change, {}):
        train(tmp_path / "parts", tiny_set, **options | now)
        assert f"{folder}: finished already" in capsys.readouterr().out


def test_what_rounds_otherwise_goes_on_with_a_warning(
    tmp_path: Path,
    tiny_set: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    stop_at(monkeypatch, 13, tmp_path / "run", tiny_set)
    train(tmp_path / "run", tiny_set, channels_last=False)
    message = "goes on where bits may differ (trainer.channels_last was True, now False)"
    assert message in capsys.readouterr().err
    assert metrics(tmp_path / "run")[-1]["step"] == 24


@pytest.mark.parametrize("finished", [False, True])
def test_moved_data_are_the_same_data_and_others_are_not(
    finished: bool, tmp_path: Path, tiny_set: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    train(tmp_path / "whole", tiny_set)
    if finished:
        train(tmp_path / "run", tiny_set)
    else:
        stop_at(monkeypatch, 13, tmp_path / "run", tiny_set)
    moved = Path(shutil.copytree(tiny_set, tmp_path / "moved"))
    other = Path(shutil.copytree(tiny_set, tmp_path / "other"))
    shutil.copy(other / "test_features_clevr_cnn.h5", other / "val_features_clevr_cnn.h5")
    shutil.copy(other / "train_questions.h5", other / "val_questions.h5")
    shutil.copy(other / "train_features_clevr_cnn.h5", other / "val_features_clevr_cnn.h5")
    before = (tmp_path / "run/last.pt").read_bytes()
    message = rf"val changed since the run began \(data\.h5 was {tiny_set}, now {other}.*\); bring"
    with pytest.raises(UserError, match=message):
        train(tmp_path / "run", other)
    assert (tmp_path / "run/last.pt").read_bytes() == before
    capsys.readouterr()
    train(tmp_path / "run", moved)
    assert f"data.h5 was {tiny_set}, now {moved}" in capsys.readouterr().out
    check_same_weights(tmp_path / "whole", tmp_path / "run")


@pytest.mark.parametrize(
    ("change", "said"),
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
def test_what_changes_the_result_is_refused_by_key(
    change: dict, said: str, tmp_path: Path, tiny_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop_at(monkeypatch, 13, tmp_path / "run", tiny_set)
    before = {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()}
    with pytest.raises(UserError) as caught:
        train(tmp_path / "run", tiny_set, **change)
    assert said in str(caught.value)
    assert {p.name: p.read_bytes() for p in (tmp_path / "run").iterdir()} == before


def losses_of_steps(records: list[dict]) -> dict[int, float]:
    return {record["step"]: record["loss"] for record in records if "loss" in record}


@pytest.mark.parametrize("log_every", [4, 7])
@pytest.mark.parametrize("end", [8, 10])
def test_a_finished_run_is_trained_longer_as_if_never_finished(
    log_every: int, end: int, tmp_path: Path, tiny_set: Path
) -> None:
    """Its steps, and the means of their losses, where it had a last record that the long run does
    not have, and also with records at other steps than before."""
    train(tmp_path / "long", tiny_set, optim=CONSTANT, log_every=1)
    train(tmp_path / "run", tiny_set, optim=CONSTANT, max_steps=end)
    first = metrics(tmp_path / "run")
    train(tmp_path / "run", tiny_set, optim=CONSTANT, log_every=log_every)
    records = metrics(tmp_path / "run")
    assert records[: len(first)] == first
    check_same_weights_and_position(tmp_path / "long", tmp_path / "run")
    per_step = losses_of_steps(metrics(tmp_path / "long"))
    since = 0
    for step, loss in losses_of_steps(records).items():
        window = [per_step[k] for k in range(since + 1, step + 1)]
        assert loss == pytest.approx(sum(window) / len(window), rel=1e-6)
        since = step
    later = [step for step in losses_of_steps(records) if step > end]
    assert later == [s for s in range(end + 1, 25) if s % log_every == 0 or s == 24]
    steps = [r["step"] for r in records if "val_accuracy" in r]
    assert steps == sorted({8, 16, 24, end})


def check_same_weights_and_position(a: Path, b: Path) -> None:
    one, other = (load_checkpoint(folder / "last.pt") for folder in (a, b))
    for entry in ("weights", "optimizer", "sampler", "schedule"):
        assert same(one[entry], other[entry]), entry


def test_another_log_every_in_the_middle_of_a_window(
    tmp_path: Path, tiny_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The record that follows is of all steps since the last."""
    train(tmp_path / "whole", tiny_set, log_every=1)
    stop_at(monkeypatch, 13, tmp_path / "run", tiny_set, log_every=10)
    stop_at(monkeypatch, 15, tmp_path / "run", tiny_set, log_every=9)  # saved in a larger window
    train(tmp_path / "run", tiny_set, log_every=2)
    per_step = losses_of_steps(metrics(tmp_path / "whole"))
    losses = losses_of_steps(metrics(tmp_path / "run"))
    assert list(losses) == [10, 16, 18, 20, 22, 24]
    assert losses[16] == pytest.approx(sum(per_step[k] for k in range(11, 17)) / 6, rel=1e-6)
    check_same_weights(tmp_path / "whole", tmp_path / "run")


def test_a_constant_run_is_shortened_or_says_that_it_is_past(
    tmp_path: Path, tiny_set: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(tmp_path / "short", tiny_set, optim=CONSTANT, max_steps=16)
    stop_at(monkeypatch, 13, tmp_path / "run", tiny_set, optim=CONSTANT)
    message = "max_steps was 24, now 8: the run is at step 13 already, and would end at 8; raise"
    with pytest.raises(UserError, match=message):
        train(tmp_path / "run", tiny_set, optim=CONSTANT, max_steps=8)
    train(tmp_path / "run", tiny_set, optim=CONSTANT, max_steps=16)
    check_same_weights(tmp_path / "short", tmp_path / "run")
    with pytest.raises(UserError, match="now 8: the run is at step 16"):
        train(tmp_path / "run", tiny_set, optim=CONSTANT, max_steps=8)


@pytest.fixture
def never_better(monkeypatch: pytest.MonkeyPatch) -> None:
    """While no evaluation finds anything better than the first."""
    monkeypatch.setattr(Trainer, "_scores", lambda self, loader, rows: rows < 0)


@pytest.mark.usefixtures("never_better")
def test_a_longer_run_says_that_patience_ended_it(
    tmp_path: Path, tiny_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for max_steps in (24, 32):
        options = {"eval_every": 4, "patience": 2, "max_steps": max_steps, "optim": CONSTANT}
        train(tmp_path / "run", tiny_set, **options)
    out = capsys.readouterr().out
    assert out.endswith("; it ended early: raise trainer.patience to go on\n")


@pytest.mark.usefixtures("never_better")
def test_patience_is_raised_after_an_early_stop_and_lowered(
    tmp_path: Path,
    tiny_set: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    options: dict[str, Any] = {"eval_every": 4}
    train(tmp_path / "whole", tiny_set, **options)
    train(tmp_path / "run", tiny_set, patience=2, **options)
    assert load_checkpoint(tmp_path / "run/last.pt")["progress"]["step"] == 12
    capsys.readouterr()
    train(tmp_path / "run", tiny_set, patience=3, **options)
    assert "trainer.patience was 2, now 3" in capsys.readouterr().out
    assert load_checkpoint(tmp_path / "run/last.pt")["progress"]["step"] == 16
    stop_at(monkeypatch, 18, tmp_path / "run", tiny_set, patience=None, **options)
    train(tmp_path / "run", tiny_set, patience=1, **options)  # which is past: it ends at once
    progress = load_checkpoint(tmp_path / "run/last.pt")["progress"]
    assert (progress["step"], progress["finished"]) == (18, True)
    train(tmp_path / "run", tiny_set, patience=1, **options)
    assert "finished already" in capsys.readouterr().out
    train(tmp_path / "run", tiny_set, **options)
    check_same_weights(tmp_path / "whole", tmp_path / "run")
    assert [
        json.loads(line)["step"]
        for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()
    ] == [r["step"] for r in metrics(tmp_path / "whole")]
