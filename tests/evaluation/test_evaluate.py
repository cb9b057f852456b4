"""What an evaluation refuses before it answers questions."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from filmvqa.evaluation.evaluate import evaluate_checkpoint
from filmvqa.evaluation.settings import EvaluateSettings
from filmvqa.system.errors import UserError
from tests.training.tiny_runs import train


@pytest.fixture(scope="module")
def moved_run(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose data were where they are no more; they are in ``h5`` beside it."""
    folder = tmp_path_factory.mktemp("moved")
    shutil.copytree(tiny_set, folder / "before")
    train(folder / "run", folder / "before", max_steps=1, eval_every=1)
    (folder / "before").rename(folder / "h5")
    return folder / "run"


@pytest.fixture
def no_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    def predict(*arguments: Any, **options: Any) -> None:
        raise AssertionError("questions were answered")

    monkeypatch.setattr("filmvqa.evaluation.evaluate.predict", predict)


def test_data_that_are_not_on_this_machine(moved_run: Path) -> None:
    checkpoint, h5 = moved_run / "best.pt", moved_run.parent / "h5"
    before = moved_run.parent / "before"
    with pytest.raises(UserError, match=f"^{checkpoint}: .*{before}, .*give h5=.*features=<folder"):
        evaluate_checkpoint(EvaluateSettings(checkpoint=checkpoint, split="val", device="cpu"))
    with pytest.raises(UserError, match=f"^{checkpoint}: .*{before}, .*give h5=<folder"):
        evaluate_checkpoint(
            EvaluateSettings(checkpoint=checkpoint, split="val", device="cpu", features=h5)
        )
    evaluate_checkpoint(EvaluateSettings(checkpoint=checkpoint, split="val", device="cpu", h5=h5))
    shutil.copytree(h5, before)
    try:
        evaluate_checkpoint(EvaluateSettings(checkpoint=checkpoint, split="val", device="cpu"))
    finally:
        shutil.rmtree(before)


@pytest.mark.usefixtures("no_answers")
def test_results_that_cannot_be_written(
    moved_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(output: Path | None) -> None:
        evaluate_checkpoint(
            EvaluateSettings(
                checkpoint=moved_run / "best.pt",
                split="val",
                device="cpu",
                h5=moved_run.parent / "h5",
                output=output,
            )
        )

    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="file is a file, not a folder"):
        evaluate(tmp_path / "file")
    (tmp_path / "results/val_predictions.jsonl").mkdir(parents=True)
    with pytest.raises(UserError, match=r"val_predictions\.jsonl: is a folder"):
        evaluate(tmp_path / "results")
    monkeypatch.setattr("filmvqa.system.files.can_write", lambda folder: False)
    with pytest.raises(UserError, match=f"^{moved_run}/evaluation/val_pred.*: cannot be written"):
        evaluate(None)
