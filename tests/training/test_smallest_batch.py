"""The smallest batches on which a model's batch norms can be trained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import h5py
import pytest
import torch

from tests.training.tiny_runs import Runs, record_batches

#: Whether a model's batch norms fail on a batch of one question.
NEEDS_TWO = {"film": True, "lstm": True, "cnn_lstm": True, "cnn_lstm_sa": True, "mac": False}


def few_questions(source: Path, target: Path, count: int, of_one_image: bool = False) -> Path:
    """A copy of a set with ``count`` training questions."""
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


@pytest.mark.parametrize("name", NEEDS_TWO)
@pytest.mark.parametrize("per_image", [1, 4])
def test_the_last_batch_has_more_than_one_question(
    runs: Runs, name: str, per_image: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two epochs with each question once; a model without batch norm has a last batch of one."""
    runs.data = few_questions(runs.data, runs.folder / "data", 33)
    options = {"batch_size": 16, "max_steps": None, "eval_every": None, "max_epochs": 2}
    batches = record_batches(monkeypatch)
    runs.train("run", name, questions_per_image=per_image, **options)
    assert [len(b) for b in batches] == 2 * ([16, 9, 8] if NEEDS_TWO[name] else [16, 16, 1])
    for epoch in (batches[:3], batches[3:]):
        assert sorted(row for batch in epoch for row in batch) == list(range(33))
    assert runs.last()["progress"]["step"] == 6


@pytest.mark.parametrize("name", NEEDS_TWO)
def test_batches_of_one_question_are_refused_before_the_first_step(runs: Runs, name: str) -> None:
    few = {"max_steps": 2, "eval_every": 2}
    one = few_questions(runs.data, runs.folder / "one", 1)
    if not NEEDS_TWO[name]:
        runs.train("a", name, batch_size=1, **few)
        runs.train("b", name, data=one, **few)
        return
    message = r"trainer\.batch_size=1: the batch norm classifier"
    runs.refuse(message, "a", name, batch_size=1, **few)
    message = r"train_questions\.h5: trains on one question, on which the batch norm "
    runs.refuse(message, "b", name, data=one, **few)


def test_without_batch_norm_one_question_is_a_batch(runs: Runs) -> None:
    """Without one in the classifier, or with all in frozen parts that keep their statistics."""
    options = {"batch_size": 1, "max_steps": 2, "eval_every": 2}
    runs.train("a", model={"classifier": {"norm": False}}, **options)
    run = {"trainable": ["encoder", "film_generator"]}
    runs.train("b", run=run, **options)
    message = r"batch_size=1: the batch norm classifier"
    runs.refuse(message, "c", run=run | {"frozen_batch_norm": "train"}, **options)


def test_a_stem_of_one_pixel_needs_two_images(runs: Runs) -> None:
    """Its batch norm gets an image once per batch, for any number of questions."""
    with h5py.File(runs.data / "train_features_clevr_cnn.h5", "r") as file:
        side = file["features"].shape[-1]
    stem = {"strides": [1], "kernel_size": side, "padding": 0}
    options: dict[str, Any] = {"model": {"stem": stem}, "max_steps": 2, "eval_every": 2}
    runs.train("several", **options)
    runs.data = few_questions(runs.data, runs.folder / "data", 8, of_one_image=True)
    message = r"the batch of step 1 asks about one image, of which the batch norm stem\.layers\.1 "
    runs.refuse(message, "one", **options)
    runs.train("larger maps", max_steps=2, eval_every=2)


def test_a_run_that_was_saved_before_a_last_batch_of_one_is_resumed(
    runs: Runs, capsys: pytest.CaptureFixture[str]
) -> None:
    """The previous version saved it after two batches of 16 of 33 questions."""
    runs.data = few_questions(runs.data, runs.folder / "data", 33)
    options = {"batch_size": 16, "eval_every": 3, "optim": {"schedule": "constant"}}
    runs.train(max_steps=2, checkpoint_steps=1, **options)
    content = runs.last()
    content["sampler"] = {"epoch": 0, "batch": 2}
    del content["progress"]["logged"]
    torch.save(content, runs.folder / "run/last.pt")
    runs.train(max_steps=6, checkpoint_steps=1, **options)
    assert "in this epoch 7 of its questions come twice" in capsys.readouterr().err
    assert runs.metrics()[-1]["step"] == 6
