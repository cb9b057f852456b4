"""Locks with flock, without it, and in files of other users."""

from __future__ import annotations

import errno
import fcntl
import multiprocessing
import os
import platform
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest

from filmvqa.cli.messages import explain
from filmvqa.system.errors import UserError
from filmvqa.system.locks import file_lock, folder_lock
from tests.permissions import FORK, as_nobody

#: flock works (0), or the error of a file system without it.
SYSTEMS = [0, errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP, errno.EINVAL]


def break_flock(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def flock(descriptor: int, operation: int) -> None:
        raise OSError(number, os.strerror(number))

    if number:
        monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture(params=SYSTEMS, ids=lambda number: errno.errorcode.get(number, "flock"))
def system(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """A file system, by the error of its flock."""
    break_flock(monkeypatch, request.param)
    return int(request.param)


@contextmanager
def holding(folder: Path) -> Iterator[multiprocessing.process.BaseProcess]:
    """A block during which another process holds a folder's lock."""

    def hold(ready: Any) -> None:
        with folder_lock(folder):
            ready.set()
            time.sleep(600)

    ready = FORK.Event()
    process = FORK.Process(target=hold, args=(ready,))
    process.start()
    assert ready.wait(20)
    try:
        yield process
    finally:
        process.kill()
        process.join()


def refusal(folder: Path) -> str:
    with pytest.raises(UserError) as caught, folder_lock(folder):
        pass
    return str(caught.value)


def test_a_process_with_patience_waits_for_the_other(system: int, tmp_path: Path) -> None:
    with holding(tmp_path) as process:
        killer = threading.Timer(0.3, lambda: (process.kill(), process.join()))
        killer.start()
        with pytest.raises(UserError, match="is using it"), folder_lock(tmp_path, patience=0.1):
            pass
        with folder_lock(tmp_path, patience=20):
            killer.join()


def test_one_at_a_time_until_it_is_killed(system: int, tmp_path: Path) -> None:
    with holding(tmp_path) as process:
        remedy = f" (if it has ended, move {tmp_path / '.lock.holder'} away)" if system else ""
        assert refusal(tmp_path) == (
            f"{tmp_path}: process {process.pid} on {platform.node()} is using it; wait for it, "
            f"stop it, or choose another path{remedy}"
        )
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()
        with folder_lock(tmp_path):
            assert "is using it" in refusal(tmp_path)
    with folder_lock(tmp_path):
        pass
    assert {path.name for path in tmp_path.iterdir()} <= {".lock"}


def test_threads_exclude_each_other(system: int, tmp_path: Path) -> None:
    lines: list[str] = []
    with folder_lock(tmp_path):
        thread = threading.Thread(target=lambda: lines.append(refusal(tmp_path)))
        thread.start()
        thread.join()
    assert "is using it" in lines[0]


def test_a_forked_child_does_not_release_its_parents_lock(system: int, tmp_path: Path) -> None:
    with folder_lock(tmp_path):
        lock = folder_lock(tmp_path / "b")
        lock.__enter__()
        child = FORK.Process(target=lambda: lock.__exit__(None, None, None))
        child.start()
        child.join()
        assert child.exitcode == 0
        assert "is using it" in refusal(tmp_path / "b")
        assert "is using it" in refusal(tmp_path)
        lock.__exit__(None, None, None)


def test_files_and_folders_have_locks_of_their_own(system: int, tmp_path: Path) -> None:
    a, b = tmp_path / "a", tmp_path / "b"
    with (
        folder_lock(tmp_path), file_lock(a), file_lock(b),
        pytest.raises(UserError, match=f"^{a}: "), file_lock(a),
    ):  # fmt: skip
        pass


def contend(folder: Path, count: int) -> int:
    """How many of ``count`` simultaneous processes get a lock."""

    def ask(begin: Barrier, end: Barrier, won: Any) -> None:
        begin.wait()
        try:
            with folder_lock(folder):
                with won.get_lock():
                    won.value += 1
                end.wait()
        except UserError:
            end.wait()

    begin, end, won = (
        FORK.Barrier(count, timeout=60),
        FORK.Barrier(count, timeout=60),
        FORK.Value("i", 0),
    )
    processes = [FORK.Process(target=ask, args=(begin, end, won)) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    return int(won.value)


def kill_a_holder(folder: Path) -> None:
    with holding(folder) as process:
        os.kill(process.pid or 0, signal.SIGKILL)
        process.join()


@pytest.mark.parametrize("number", [0, errno.ENOSYS])
def test_one_of_many_processes_takes_over_a_killed_ones_lock(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_flock(monkeypatch, number)
    for i in range(8):
        kill_a_holder(tmp_path / str(i))
        assert (tmp_path / f"{i}/.lock.holder").exists()
        assert contend(tmp_path / str(i), 4) == 1
        assert [path.name for path in (tmp_path / str(i)).iterdir()] == [".lock"]


def test_a_process_killed_before_its_marker_had_a_name_holds_nothing(tmp_path: Path) -> None:
    """If ``flock`` works, its lock has ended with its process."""

    def be_killed() -> None:
        os.write = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
        with folder_lock(tmp_path):
            pass

    process = FORK.Process(target=be_killed)
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (tmp_path / ".lock.holder").read_text() == ""
    with folder_lock(tmp_path):
        assert f"process {os.getpid()} on" in refusal(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


@pytest.mark.parametrize(
    ("content", "holder"),
    [
        ("7\nanother\n5\n", "process 7 on another"),
        ("", "another process"),
        ("{}", "another process"),
    ],
)
def test_a_marker_of_another_machine_or_of_nobody_is_held(
    system: int, content: str, holder: str, tmp_path: Path
) -> None:
    marker = tmp_path / ".lock.holder"
    marker.write_text(content)
    line = refusal(tmp_path)
    assert line.startswith(f"{tmp_path}: {holder} is using it; wait for it, stop it, or choose")
    assert line.endswith(f"(if it has ended, move {marker} away)")
    assert marker.read_text() == content


def test_a_process_of_another_machine_that_was_killed_holds_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If ``flock`` works, all machines learn that its lock has ended."""
    for name in (".lock", ".lock.holder"):
        (tmp_path / name).write_text("7\nanother\n5\n")
    with folder_lock(tmp_path):
        assert f"process {os.getpid()} on" in refusal(tmp_path)


def test_the_two_ways_respect_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """flock may work on one machine of a cluster but not on another, or fail for a time."""
    with holding(tmp_path), monkeypatch.context() as patch:
        break_flock(patch, errno.ENOLCK)
        assert "is using it" in refusal(tmp_path)
    with monkeypatch.context() as patch:
        break_flock(patch, errno.ENOLCK)
        with folder_lock(tmp_path):
            patch.undo()
            assert "is using it" in refusal(tmp_path)


def test_a_text_that_an_earlier_version_left_is_no_lock(system: int, tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text(f"process 1 on {platform.node()}\n")
    with folder_lock(tmp_path):
        assert "is using it" in refusal(tmp_path)


def test_another_error_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    break_flock(monkeypatch, errno.EIO)
    with pytest.raises(OSError) as caught, folder_lock(tmp_path):
        pass
    assert explain(caught.value).startswith(f"{tmp_path / '.lock'}: ")


def test_another_users_lock_file_that_can_only_be_read_is_locked(public: Path) -> None:
    (public / ".lock").touch(mode=0o444)

    def work() -> None:
        with folder_lock(public):
            assert "is using it" in refusal(public)

    as_nobody(work)
    with folder_lock(public):
        as_nobody(lambda: refusal(public) and None)


def test_another_users_lock_file_that_cannot_be_read_is_named(public: Path) -> None:
    (public / ".lock").touch(mode=0)

    def work() -> None:
        with pytest.raises(OSError) as caught, folder_lock(public):
            pass
        assert explain(caught.value) == (
            f"{public / '.lock'}: Permission denied; change its permissions, or choose another "
            "path, and run again"
        )

    as_nobody(work)


def test_a_read_only_descriptor_that_nfs_does_not_lock_is_named(
    public: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_flock(monkeypatch, errno.EBADF)
    with (
        pytest.raises(UserError, match=r"\.lock: belongs to another user.*chmod a\+w"),
        folder_lock(public),
    ):
        pass


@pytest.mark.parametrize("number", [0, errno.ENOSYS])
def test_a_folder_that_cannot_be_written_is_not_locked(
    public: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    break_flock(monkeypatch, number)
    (public / "a").mkdir()
    (public / "a").chmod(0o555)
    (public / "b").mkdir()
    (public / "b/.lock").touch()
    (public / "b").chmod(0o555)

    def work() -> None:
        for name in ("a", "b", "a/new"):
            with folder_lock(public / name):
                pass

    as_nobody(work)
    assert not list((public / "a").iterdir())
