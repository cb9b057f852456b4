"""Unreadable and unsuitable checkpoints are refused."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from filmvqa.checkpoints.checkpoint import (
    FORMAT,
    load_checkpoint,
    model_from_checkpoint,
    save_checkpoint,
)
from filmvqa.cli.messages import explain
from filmvqa.questions.vocabulary import Vocabulary
from filmvqa.system.errors import UserError
from tests.training.tiny_runs import Runs

INCOMPLETE = {"format": FORMAT, "model": {"name": "film"}}
BROKEN = b"PK and no more"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "no such checkpoint"),
        (b"hello", "not a readable checkpoint"),
        ({"weights": {}}, "is not a checkpoint of this project"),
        ({"format": "filmvqa-checkpoint-2", "weights": {}},
         r"is 'filmvqa-checkpoint-2', not .*; resume with the version"),
        (INCOMPLETE, "'model' is missing or broken"),
        (BROKEN, r"\); delete it to train from the beginning"),
    ],
)  # fmt: skip
def test_files_that_are_not_checkpoints_are_refused(
    tmp_path: Path, content: bytes | dict | None, message: str
) -> None:
    path = tmp_path / "last.pt"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        torch.save(content, path)
    with pytest.raises(UserError, match=message):
        load_checkpoint(path)
    if content == BROKEN:
        (tmp_path / "best.pt").touch()
        with pytest.raises(
            UserError, match=r"\); copy best\.pt over it to resume from there, or del"
        ):
            load_checkpoint(path)


@pytest.mark.parametrize(
    "number", [errno.EACCES, errno.EMFILE, errno.EIO, errno.ENOMEM, errno.ESTALE]
)
@pytest.mark.parametrize("reading", [False, True])
def test_a_system_error_is_not_reported_as_a_broken_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, reading: bool
) -> None:
    path = tmp_path / "last.pt"
    path.write_bytes(b"whatever it is")

    def refuse(self: Path) -> bytes:  # only errors of opening name the file
        raise OSError(number, os.strerror(number), *([] if reading else [str(self)]))

    monkeypatch.setattr(Path, "read_bytes", refuse)
    with pytest.raises(OSError, match=re.escape(os.strerror(number))) as caught:
        load_checkpoint(path)
    line = explain(caught.value)
    assert line.startswith(f"{path}: {os.strerror(number)}; ")
    assert not re.search("delet|copy|train|readable", line.removeprefix(str(path)))


def test_too_little_memory_is_not_reported_as_a_broken_checkpoint(
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


def test_inconsistent_checkpoints_are_refused(runs: Runs) -> None:
    runs.train(max_steps=8)
    path = runs.folder / "run/last.pt"
    content = load_checkpoint(path)
    model, vocabulary = model_from_checkpoint(content, path)
    assert not model.training
    assert vocabulary == Vocabulary.load(runs.data / "vocab.json")
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
        save_checkpoint(runs.folder / "bad.pt", {**content, **change})
        with pytest.raises(UserError, match=message):
            model_from_checkpoint(load_checkpoint(runs.folder / "bad.pt"), runs.folder / "bad.pt")
