"""Downloading from a server on localhost."""

from __future__ import annotations

import hashlib
import io
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from filmvqa.data.download import download_archive
from filmvqa.errors import UserError
from filmvqa.locks import folder_lock


def archive(entries: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return out.getvalue()


FILES = {
    "CLEVR_v1.0/README.txt": b"read me",
    "CLEVR_v1.0/images/val/CLEVR_val_000000.png": bytes(range(256)) * 2000,
    "CLEVR_v1.0/questions/CLEVR_val_questions.json": b"{}",
}
CONTENT = archive(FILES)


class Server(ThreadingHTTPServer):
    content = CONTENT
    ranges = True
    cut = 0  # close the connection after so many bytes
    asked: list[str]

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # the tests cut connections


class Handler(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *arguments: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(self.server.content)))
        self.end_headers()

    def do_GET(self) -> None:
        wanted = self.headers.get("Range", "")
        self.server.asked.append(wanted)
        start = int(wanted[6:-1]) if wanted and self.server.ranges else 0
        body = self.server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body[: self.server.cut] if self.server.cut else body)


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server(("127.0.0.1", 0), Handler)
    server.asked = []
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def url(server: Server) -> str:
    return f"http://127.0.0.1:{server.server_address[1]}/CLEVR_v1.0.zip"


def check(folder: Path) -> None:
    for name, content in FILES.items():
        assert (folder / name.partition("/")[2]).read_bytes() == content
    assert not list(folder.glob("CLEVR*.zip*"))


def test_fetch_unpack_and_leave_alone(server: Server, tmp_path: Path, capsys) -> None:
    md5 = hashlib.md5(CONTENT).hexdigest()
    download_archive(url(server), tmp_path / "clevr", md5=md5)
    check(tmp_path / "clevr")
    assert "GiB to fetch" in capsys.readouterr().out
    server.asked.clear()
    download_archive(url(server), tmp_path / "clevr", md5=md5)
    assert server.asked == []
    assert "there already" in capsys.readouterr().out


@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_connection_is_gone_on_with(server: Server, tmp_path: Path, ranges: bool) -> None:
    server.ranges = ranges
    (tmp_path / "CLEVR_v1.0.zip.part").write_bytes(CONTENT[:1000])
    download_archive(url(server), tmp_path, md5=hashlib.md5(CONTENT).hexdigest())
    check(tmp_path)
    assert server.asked == ["bytes=1000-"]


def test_an_interruption_keeps_what_was_fetched(server: Server, tmp_path: Path) -> None:
    server.cut = 100_000
    with pytest.raises(UserError, match="run again"):
        download_archive(url(server), tmp_path)
    server.cut = 0
    server.asked.clear()
    download_archive(url(server), tmp_path)
    check(tmp_path)
    assert server.asked == ["bytes=100000-"]


def test_a_wrong_checksum_is_refused(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="MD5"):
        download_archive(url(server), tmp_path, md5="0" * 32)
    assert [path.name for path in tmp_path.iterdir()] == [".CLEVR_v1.0.zip.lock"]


def test_another_process_that_fetches_the_same_is_told(server: Server, tmp_path: Path) -> None:
    with (
        folder_lock(tmp_path, "CLEVR_v1.0.zip"),
        pytest.raises(UserError, match="is using it"),
    ):
        download_archive(url(server), tmp_path)
    assert server.asked == []


def test_unpacking_goes_on(server: Server, tmp_path: Path) -> None:
    (tmp_path / "CLEVR_v1.0.zip").write_bytes(CONTENT)
    (tmp_path / "README.txt").write_bytes(FILES["CLEVR_v1.0/README.txt"])
    stamp = (tmp_path / "README.txt").stat().st_mtime_ns
    download_archive(url(server), tmp_path)
    check(tmp_path)
    assert (tmp_path / "README.txt").stat().st_mtime_ns == stamp
    assert server.asked == []


def test_a_broken_archive_and_a_missing_server_are_named(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:5000]
    with pytest.raises(UserError, match="broken archive"):
        download_archive(url(server), tmp_path)
    with pytest.raises(UserError, match="cannot be reached"):
        download_archive("http://127.0.0.1:9/x.zip", tmp_path)


def test_entries_outside_the_folder_are_refused(server: Server, tmp_path: Path) -> None:
    server.content = archive({"CLEVR/../../evil.txt": b"x"})
    with pytest.raises(UserError, match="outside"):
        download_archive(url(server), tmp_path / "data")
    assert not (tmp_path / "evil.txt").exists()


def test_a_full_disk_is_told_before_work(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make room"):
        download_archive(url(server), tmp_path, needs=2**60)
    assert server.asked == []
