"""The errors when disk space runs out."""

from __future__ import annotations

import errno
import shutil
from collections import namedtuple
from pathlib import Path

import pytest

from filmvqa.cli.messages import explain

Usage = namedtuple("Usage", "total used free")


@pytest.mark.parametrize("full", ["/dev/shm", "/tmp", "."])
def test_a_full_disk_is_searched_for_if_no_file_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, full: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TMPDIR", raising=False)
    free = lambda path: 0 if Path(path) == Path(full) else 2**33  # noqa: E731
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**34, 0, free(path)))
    message = explain(OSError(errno.ENOSPC, "No space left on device"))
    assert message.startswith(f"{Path(full).absolute()}: no room on the disk")


def test_an_unknown_full_disk_is_not_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(2**34, 0, 2**33))
    for number in (errno.ENOSPC, errno.EDQUOT):
        message = explain(OSError(number, "No space left on device"))
        assert message.startswith("a disk (see df -h): no room on the disk")
        assert str(Path.cwd()) not in message
    message = explain(OSError(errno.EFBIG, "File too large"))
    assert message.startswith("a file: larger than a file may be here; raise the limit (ulimit -f)")


def test_a_named_file_is_in_the_message(tmp_path: Path) -> None:
    path = tmp_path / "a/b.h5"
    message = explain(OSError(errno.ENOSPC, "No space left on device", str(path)))
    assert message.startswith(f"{path}: no room on the disk, ")
