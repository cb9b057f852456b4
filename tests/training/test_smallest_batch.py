"""Batches on which the batch norms of a model can be trained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from filmvqa.checkpoints.checkpoint import load_checkpoint
from filmvqa.system.errors import UserError
from filmvqa.training.trainer import Trainer
from tests.training.tiny_runs import metrics, train

#: Whether a batch of one question ends the training of each model in batch norm's error.
NEEDS_TWO = {"film": True, "lstm": True, "cnn_lstm": True, "cnn_lstm_sa": True, "mac": False}


def few_questions(source: Path, target: Path, count: int, of_one_image: bool = False) -> Path:
    """A copy of a set with so many training questions."""
    shutil.copytree(source, target)
    with h5py.File(target / "train_questions.h5", "r+") as file:
        images = file["image_idxs"][:]
        rows = (images == images[0]).nonzero()[0] if of_one_image else slice(None)
        for name in list(file):
            values = file[name][:][rows][:count]
            del file[name]
            file[name] = values
        for name in ("sha256", "image_names_sha256"):
            file.attrs.pop(name, None)
    return target


@pytest.fixture
def batch_lengths(monkeypatch: pytest.MonkeyPatch) -> list[list[int]]:
    """The rows of each training batch from here on."""
    batches: list[list[int]] = []
    step = Trainer.step

    def noted(self: Trainer, batch: Any) -> None:
        batches.append(batch.index.tolist())
        step(self, batch)

    monkeypatch.setattr(Trainer, "step", noted)
    return batches


@pytest.mark.parametrize("name", NEEDS_TWO)
@pytest.mark.parametrize("per_image", [1, 4])
def test_a_question_left_over_is_no_batch_of_its_own(
    name: str, per_image: int, tmp_path: Path, tiny_set: Path, batch_lengths: list[list[int]]
) -> None:
    """Two epochs, each question once in each; models that can learn from one are as they were."""
    data = few_questions(tiny_set, tmp_path / "data", 33)
    options = {"batch_size": 16, "max_steps": None, "eval_every": None, "max_epochs": 2}
    train(tmp_path / "run", data, name, questions_per_image=per_image, **options)
    assert [len(b) for b in batch_lengths] == 2 * ([16, 9, 8] if NEEDS_TWO[name] else [16, 16, 1])
    for epoch in (batch_lengths[:3], batch_lengths[3:]):
        assert sorted(row for batch in epoch for row in batch) == list(range(33))
    assert load_checkpoint(tmp_path / "run/last.pt")["progress"]["step"] == 6


@pytest.mark.parametrize("name", NEEDS_TWO)
def test_what_cannot_be_trained_is_refused_before_the_first_step(
    name: str, tmp_path: Path, tiny_set: Path
) -> None:
    one = few_questions(tiny_set, tmp_path / "one", 1)
    for data, options, message in (
        (tiny_set, {"batch_size": 1}, r"trainer\.batch_size=1: the batch norm classifier"),
        (one, {}, r"train_questions\.h5: trains on one question, on which the batch norm "),
    ):
        folder = tmp_path / f"run of {data.name}"
        if NEEDS_TWO[name]:
            with pytest.raises(UserError, match=message):
                train(folder, data, name, max_steps=2, eval_every=2, **options)
            assert not (folder / "metrics.jsonl").exists()
        else:
            train(folder, data, name, max_steps=2, eval_every=2, **options)


def test_without_batch_norm_one_question_is_a_batch(tmp_path: Path, tiny_set: Path) -> None:
    """In the classifier alone, and in frozen parts, unless these are to be trained too."""
    options = {"batch_size": 1, "max_steps": 2, "eval_every": 2}
    train(tmp_path / "a", tiny_set, model={"classifier": {"norm": False}}, **options)
    run = {"trainable": ["encoder", "film_generator"]}
    train(tmp_path / "b", tiny_set, run=run, **options)
    with pytest.raises(UserError, match=r"batch_size=1: the batch norm classifier"):
        train(tmp_path / "c", tiny_set, run=run | {"frozen_batch_norm": "train"}, **options)


def test_a_stem_of_one_pixel_needs_two_images(tmp_path: Path, tiny_set: Path) -> None:
    """Its batch norm gets an image once a batch, whatever the number of questions."""
    with h5py.File(tiny_set / "train_features_clevr_cnn.h5", "r") as file:
        side = file["features"].shape[-1]
    stem = {"strides": [1], "kernel_size": side, "padding": 0}
    options: dict[str, Any] = {"model": {"stem": stem}, "max_steps": 2, "eval_every": 2}
    train(tmp_path / "several", tiny_set, **options)
    data = few_questions(tiny_set, tmp_path / "data", 8, of_one_image=True)
    message = r"the batch of step 1 asks about one image, of which the batch norm stem\.layers\.1 "
    with pytest.raises(UserError, match=message):
        train(tmp_path / "one", data, **options)
    assert not (tmp_path / "one/metrics.jsonl").exists()
    train(tmp_path / "larger maps", data, max_steps=2, eval_every=2)


def test_a_run_that_died_before_a_last_batch_of_one_goes_on(
    tmp_path: Path, tiny_set: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the version before saved it: after two batches of 16 of 33 questions."""
    data = few_questions(tiny_set, tmp_path / "data", 33)
    options = {"batch_size": 16, "max_steps": 6, "eval_every": 3, "checkpoint_steps": 1}
    train(tmp_path / "run", data, **options | {"max_steps": 2, "eval_every": 3},
          optim={"schedule": "constant"})  # fmt: skip
    path = tmp_path / "run/last.pt"
    content = load_checkpoint(path)
    content["sampler"] = {"epoch": 0, "batch": 2}
    del content["progress"]["logged"]
    torch.save(content, path)
    train(tmp_path / "run", data, **options, optim={"schedule": "constant"})
    assert "in this epoch 7 of its questions come twice" in capsys.readouterr().err
    assert metrics(tmp_path / "run")[-1]["step"] == 6
