"""Trainable weights that the loss does not use are reported."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from filmvqa.models.conditioning import CONDITIONINGS, Film
from tests.training.tiny_runs import train


class FilmWithMore(Film):
    """FiLM with a weight that ``forward`` does not use."""

    def __init__(self, *sizes: object) -> None:
        super().__init__(*sizes)  # type: ignore[arg-type]
        self.more = torch.nn.Parameter(torch.ones(3))


def test_a_weight_that_no_gradient_reaches_is_named(
    tiny_set: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    train(tmp_path / "film", tiny_set, max_steps=1)
    assert "no gradient" not in capsys.readouterr().err
    monkeypatch.setitem(CONDITIONINGS, "more", FilmWithMore)
    train(tmp_path / "more", tiny_set, model={"block": {"conditioning": "more"}}, max_steps=1)
    line = next(line for line in capsys.readouterr().err.splitlines() if "no gradient" in line)
    assert line.startswith("warning: no gradient reaches blocks.0.condition.more, ")
