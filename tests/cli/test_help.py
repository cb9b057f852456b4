"""``--help`` of every program: its groups of configs, and its keys with their meanings."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

from filmvqa.cli.command import CONFIGS
from filmvqa.cli.help import format_help, read_attributes, read_comments
from filmvqa.training.settings import TrainerSettings
from tests.cli.test_settings import TYPES
from tests.conftest import run_script


def help_of(name: str, *arguments: str) -> list[str]:
    return format_help("Summary.", CONFIGS, name, TYPES[name], arguments).splitlines()


def keys_without_meaning(lines: list[str]) -> list[str]:
    """The keys without a text, or with only the values that they take."""
    pairs = [pair for pair in pairwise(lines) if re.match(r"  \S", pair[0])]
    return [key for key, text in pairs if not re.match(r" {6}[^ []", text)]


@pytest.mark.parametrize("name", TYPES)
def test_every_key_of_every_program_has_a_meaning(name: str) -> None:
    lines = help_of(name)
    assert any(line.startswith("  debug=false") for line in lines)
    assert keys_without_meaning(lines) == []


@pytest.mark.parametrize("group", ["data", "model", "optim", "logger"])
def test_so_does_every_key_of_every_choice(group: str) -> None:
    for path in (CONFIGS / group).glob("*.yaml"):
        assert keys_without_meaning(help_of("train", f"{group}={path.stem}")) == [], path


def test_a_program_names_the_groups_that_it_takes_alone() -> None:
    text = "\n".join(help_of("draw_model"))
    assert "  model=film\n      sets several keys; one of cnn_lstm, " in text
    for group in ("data=", "trainer", "experiment", "sweep", "claim"):
        assert f"  {group}" not in text
    assert "  ablation=null\n      sets several keys; one of after_conv2," in "\n".join(
        help_of("train")
    )
    assert "sets several" not in "\n".join(help_of("evaluate"))


def test_help_shows_what_a_key_takes_and_what_is_chosen() -> None:
    lines = help_of("train", "model=mac", "seed=3")
    assert "  seed=3" in lines
    assert "  model.memory_gate=false" in lines
    assert "[a whole number from 1 to 2147483647, or null]" in " ".join(lines)
    assert "  checkpoint=<value>" in help_of("export")


def test_meanings_of_dataclasses_and_of_configs(tmp_path: Path) -> None:
    meanings = read_attributes(TrainerSettings)
    assert meanings["eval_every"] == "Steps between evaluations; null for one evaluation per epoch."
    assert meanings["train_sample"] == meanings["val_sample"]
    path = tmp_path / "config.yaml"
    path.write_text(
        "# head\na: 1   # one\nb:\n  c: [2]          # two,\n                  # or more\n  # no\n  d: x\n"
    )
    assert read_comments(path) == {"a": "one", "b.c": "two, or more"}


def test_a_script_prints_its_help(tmp_path: Path) -> None:
    done = run_script("export.py", "--help", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Write a trained network as one small file")
    assert "  output=<value>\n" in done.stdout
    done = run_script("export.py", "-h", "outptu=x", cwd=tmp_path)
    assert done.stderr == "error: outptu: no such key; did you mean output?\n"
    assert done.returncode == 1
