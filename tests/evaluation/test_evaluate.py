"""Evaluations that are refused before questions are answered."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest

from filmvqa.system.errors import UserError
from tests.training.tiny_runs import evaluate, train


@pytest.fixture(scope="module")
def moved_run(tiny_set: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose data were moved to ``h5`` beside it."""
    folder = tmp_path_factory.mktemp("moved")
    shutil.copytree(tiny_set, folder / "before")
    train(folder / "run", folder / "before", max_steps=1, eval_every=1)
    (folder / "before").rename(folder / "h5")
    return folder / "run"


def test_missing_data(moved_run: Path) -> None:
    checkpoint, h5 = moved_run / "best.pt", moved_run.parent / "h5"
    before = moved_run.parent / "before"
    with pytest.raises(UserError, match=f"^{checkpoint}: .*{before}, .*give h5=.*features=<folder"):
        evaluate(checkpoint)
    with pytest.raises(UserError, match=f"^{checkpoint}: .*{before}, .*give h5=<folder"):
        evaluate(checkpoint, features=h5)
    evaluate(checkpoint, h5=h5)
    shutil.copytree(h5, before)
    try:
        evaluate(checkpoint)
    finally:
        shutil.rmtree(before)


def test_results_that_cannot_be_written(
    moved_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    predict = Mock(side_effect=AssertionError("questions were answered"))
    monkeypatch.setattr("filmvqa.evaluation.evaluate.predict", predict)

    def refuse(output: Path | None, message: str) -> None:
        with pytest.raises(UserError, match=message):
            evaluate(moved_run / "best.pt", h5=moved_run.parent / "h5", output=output)

    (tmp_path / "file").touch()
    refuse(tmp_path / "file", "file is a file, not a folder")
    (tmp_path / "results/val_predictions.jsonl").mkdir(parents=True)
    refuse(tmp_path / "results", r"val_predictions\.jsonl: is a folder")
    monkeypatch.setattr("filmvqa.system.files.can_write", lambda folder: False)
    refuse(None, f"^{moved_run}/evaluation/val_pred.*: cannot be written")
