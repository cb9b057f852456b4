"""A failure beside a program's work is one warning."""

from __future__ import annotations

import os

import pytest

from filmvqa.system.errors import UserError
from filmvqa.system.side_output import environment, going_on_without


@pytest.mark.parametrize(
    ("error", "warning"),
    [
        (ValueError("no\nway"), "x.png (no way)"),
        (KeyError(), "x.png (KeyError)"),
        (UserError("y.png: is broken"), "y.png: is broken"),
    ],
)
def test_a_failure_is_one_warning(error: Exception, warning: str, capsys) -> None:
    @going_on_without("x.png")
    def draw() -> None:
        raise error

    draw()
    assert capsys.readouterr().err == f"warning: {warning}; continuing without it\n"


def test_an_interruption_is_no_failure(capsys) -> None:
    with pytest.raises(KeyboardInterrupt), going_on_without("x.png"):
        raise KeyboardInterrupt
    assert not capsys.readouterr().err


def test_variables_of_the_environment_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FILMVQA_A", "1")
    monkeypatch.delenv("FILMVQA_B", raising=False)
    with pytest.raises(ValueError), environment(FILMVQA_A="2", FILMVQA_B="3"):
        assert (os.environ["FILMVQA_A"], os.environ["FILMVQA_B"]) == ("2", "3")
        raise ValueError
    assert os.environ["FILMVQA_A"] == "1"
    assert "FILMVQA_B" not in os.environ
