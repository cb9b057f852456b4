"""Checks of outputs before the work, and errors that name no file."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from filmvqa.studies.sweeps import read_runs
from filmvqa.system.errors import UserError
from filmvqa.system.files import atomic_write, check_output, files_below, named_errors, names_in
from filmvqa.system.layout import DatasetLayout
from filmvqa.system.locks import file_lock
from filmvqa.worlds.clevr.generate import generate
from filmvqa.worlds.clevr.generator_settings import GeneratorSettings
from tests.permissions import as_nobody


@pytest.mark.parametrize("name", ["a", "new/a", "new/deep/a", "./a", "../a"])
def test_an_output_that_can_be_written_is_not_created(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    check_output(name)
    assert list(tmp_path.rglob("*")) == [tmp_path / "here"]


def test_outputs_that_cannot_be_written_are_named(public: Path) -> None:
    (public / "file").touch()
    (public / "sealed").mkdir(mode=0o555)
    (public / "hidden").mkdir(mode=0o700)

    def work() -> None:
        for name, message in (
            ("file/a", "is a file, not a folder"),
            ("sealed", "is a folder, not a file"),
            ("sealed/a", "cannot be written; change the permissions of"),
            ("sealed/new/a", "cannot be written; change the permissions of"),
            ("hidden/new/a", "cannot be written; change the permissions of"),
        ):
            with pytest.raises(UserError, match=message) as caught:
                check_output(public / name)
            assert str(caught.value).startswith(f"{public / name}: ")
            with pytest.raises(UserError, match=message), file_lock(public / name):
                pass

    as_nobody(work)


def test_an_unreadable_folder_does_not_count_as_empty(public: Path) -> None:
    (public / "images").mkdir(mode=0o300)
    (public / "sweep/a").mkdir(parents=True)
    (public / "sweep/b").mkdir(mode=0o300)
    settings = GeneratorSettings(images={"val": 1}, width=48, height=32, rays=1, masks=False)
    assert generate(public / "world", settings, workers=1)
    picture = public / "world/images/val/CLEVR_val_000000.png"
    made = picture.stat().st_mtime_ns
    for path in (public / "world").rglob("*"):
        path.chmod(0o777)
    (public / "world").chmod(0o777)
    picture.parent.chmod(0o333)

    def work() -> None:
        with pytest.raises(PermissionError, match="images"):
            DatasetLayout.under(public).image_splits()
        with pytest.raises(PermissionError, match="sweep/b"):
            read_runs(public / "sweep")
        with pytest.raises(PermissionError, match="images/val"):
            generate(public / "world", settings, workers=1)

    as_nobody(work)
    assert picture.stat().st_mtime_ns == made


def test_folders_are_listed_in_order(tmp_path: Path) -> None:
    for name in ("b/x", "a/c/x", "a/y", "x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert names_in(tmp_path) == ["a", "b", "x"]
    assert files_below(tmp_path, "x") == [tmp_path / n for n in ("a/c/x", "b/x", "x")]
    assert names_in(tmp_path / "none") == files_below(tmp_path / "none", "x") == []


def test_an_error_that_names_no_file_gets_its_path(tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, atomic_write(tmp_path / "a"):
        raise OSError(errno.EIO, os.strerror(errno.EIO))
    assert (caught.value.errno, caught.value.filename) == (errno.EIO, str(tmp_path / "a"))
    with pytest.raises(FileNotFoundError) as missing, named_errors(tmp_path / "a"):
        (tmp_path / "b").read_bytes()
    assert missing.value.filename == str(tmp_path / "b")
    with pytest.raises(UserError, match="a: no room on the disk"), named_errors(tmp_path / "a"):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_write_that_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "kept").write_bytes(b"before")
    with pytest.raises(ValueError, match="stopped"), atomic_write(tmp_path / "kept") as stream:
        stream.write(b"after")
        raise ValueError("stopped")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("kept", b"before")]
