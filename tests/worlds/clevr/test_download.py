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

from filmvqa.system.errors import UserError
from filmvqa.system.locks import folder_lock
from filmvqa.worlds.clevr.download import download_archive


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
    content_type = "application/zip"
    ranges = True
    chunked = False
    redirects = 0
    cut = 0  # close the connection after so many bytes
    asked: list[str]

    def handle_error(self, request: object, client_address: object) -> None:
        pass  # the tests cut connections


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        self.close_connection = True
        if self.server.redirects:
            self.server.redirects -= 1
            self.send_response(302)
            self.send_header("Location", "/elsewhere")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        content = self.server.content
        wanted = self.headers.get("Range", "")
        self.server.asked.append(wanted)
        start = int(wanted[6:-1]) if wanted and self.server.ranges else 0
        if start and start >= len(content):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(content)}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        body = content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", self.server.content_type)
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        if self.server.chunked:
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            sent = body[: self.server.cut] if self.server.cut else body
            for i in range(0, len(sent), 70_000):
                chunk = sent[i : i + 70_000]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(chunk), chunk))
            if not self.server.cut:
                self.wfile.write(b"0\r\n\r\n")
            return
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
    assert not list(folder.glob("*.zip*.part"))


def test_fetch_unpack_and_leave_alone(server: Server, tmp_path: Path, capsys) -> None:
    md5 = hashlib.md5(CONTENT).hexdigest()
    download_archive(url(server), tmp_path / "clevr", md5=md5)
    check(tmp_path / "clevr")
    assert "GiB to fetch" in capsys.readouterr().out
    server.asked.clear()
    download_archive(url(server), tmp_path / "clevr", md5=md5)
    assert server.asked == []
    assert "there already" in capsys.readouterr().out


PART = ".CLEVR_v1.0.zip.part"
MD5 = hashlib.md5(CONTENT).hexdigest()


@pytest.mark.parametrize("redirects", [0, 2])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_connection_is_gone_on_with(
    server: Server, tmp_path: Path, ranges: bool, chunked: bool, redirects: int
) -> None:
    server.ranges, server.chunked = ranges, chunked
    server.cut, server.redirects = 100_000, redirects
    with pytest.raises(UserError, match="run again"):
        download_archive(url(server), tmp_path, md5=MD5)
    part = (tmp_path / PART).read_bytes()
    assert CONTENT.startswith(part)
    assert len(part) > 50_000
    server.cut, server.redirects = 50_000, redirects  # what was fetched is kept in any case
    with pytest.raises(UserError, match="run again"):
        download_archive(url(server), tmp_path, md5=MD5)
    assert (tmp_path / PART).read_bytes().startswith(part)
    server.cut, server.redirects = 0, redirects
    server.asked.clear()
    part = (tmp_path / PART).read_bytes()
    download_archive(url(server), tmp_path, md5=MD5)
    check(tmp_path)
    assert server.asked == [f"bytes={len(part)}-"]


def test_nothing_is_fetched_of_an_archive_that_is_complete(server: Server, tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(CONTENT)
    download_archive(url(server), tmp_path, md5=MD5)
    check(tmp_path)
    assert server.asked == []


@pytest.mark.parametrize("extra", [0, 10])
def test_a_part_that_is_not_of_this_file_is_kept(
    server: Server, tmp_path: Path, extra: int
) -> None:
    content = b"x" * (len(CONTENT) + extra)
    (tmp_path / PART).write_bytes(content)
    with pytest.raises(UserError, match=f"{PART}: .*move it away"):
        download_archive(url(server), tmp_path, md5=MD5)
    assert (tmp_path / PART).read_bytes() == content


def test_a_wrong_checksum_is_refused(server: Server, tmp_path: Path) -> None:
    for _ in range(2):
        with pytest.raises(UserError, match=f"{PART}: has the MD5 {MD5}"):
            download_archive(url(server), tmp_path, md5="0" * 32)
    assert {path.name for path in tmp_path.iterdir()} == {".CLEVR_v1.0.zip.lock", PART}
    download_archive(url(server), tmp_path, md5=MD5)
    check(tmp_path)


def test_a_web_page_in_place_of_the_archive_is_named(server: Server, tmp_path: Path) -> None:
    server.content, server.content_type = b"<html>log in</html>", "text/html; charset=utf-8"
    for start in (0, 9):
        server.ranges = False
        with pytest.raises(UserError, match="sends no zip archive but text/html"):
            download_archive(url(server), tmp_path)
        assert (tmp_path / PART).stat().st_size == start
        (tmp_path / PART).write_bytes(CONTENT[:9])
    assert (tmp_path / PART).read_bytes() == CONTENT[:9]


@pytest.mark.parametrize("address", ["nothing", "htp://x/y.zip", "http://127.0.0.1:9/x.zip", ""])
def test_addresses_that_lead_nowhere_are_named(address: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{address}: "):
        download_archive(address, tmp_path)


def test_a_query_is_no_part_of_the_name(server: Server, tmp_path: Path) -> None:
    download_archive(url(server) + "?dl=1", tmp_path)
    assert (tmp_path / ".CLEVR_v1.0.zip.done").exists()


@pytest.mark.parametrize(
    ("content", "md5"),
    [
        (CONTENT[:300_000], None),  # as wget leaves it
        (b"", None),
        (b"<html>", None),
        (CONTENT, "0" * 32),
        (CONTENT[:900] + b"?" + CONTENT[901:], None),
    ],
)
def test_an_archive_of_the_users_own_is_kept_whatever_it_is(
    server: Server, tmp_path: Path, content: bytes, md5: str | None
) -> None:
    path = tmp_path / "CLEVR_v1.0.zip"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path}: .*rename it to {PART} and run again"):
        download_archive(url(server), tmp_path, md5=md5)
    assert path.read_bytes() == content
    assert server.asked == []


def test_an_archive_of_the_users_own_is_finished_as_advised(server: Server, tmp_path: Path) -> None:
    (tmp_path / "CLEVR_v1.0.zip").write_bytes(CONTENT[:300_000])
    (tmp_path / "CLEVR_v1.0.zip").rename(tmp_path / PART)
    download_archive(url(server), tmp_path, md5=MD5)
    check(tmp_path)
    assert server.asked == ["bytes=300000-"]


def test_files_that_are_in_the_folder_are_not_replaced(server: Server, tmp_path: Path) -> None:
    for content in (b"mine", b"Read Me"):  # the second is as long as the archive's
        (tmp_path / "README.txt").write_bytes(content)
        with pytest.raises(UserError, match=r"README\.txt: is not the file of that name"):
            download_archive(url(server), tmp_path, md5=MD5)
        assert (tmp_path / "README.txt").read_bytes() == content
        assert not (tmp_path / "images").exists()


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
    assert (tmp_path / "CLEVR_v1.0.zip").read_bytes() == CONTENT
    assert (tmp_path / "README.txt").stat().st_mtime_ns == stamp
    assert server.asked == []


def test_a_broken_archive_is_named(server: Server, tmp_path: Path) -> None:
    server.content = CONTENT[:5000]
    with pytest.raises(UserError, match="no complete zip archive"):
        download_archive(url(server), tmp_path)


def test_entries_outside_the_folder_are_refused(server: Server, tmp_path: Path) -> None:
    server.content = archive({"CLEVR/../../evil.txt": b"x"})
    with pytest.raises(UserError, match="outside"):
        download_archive(url(server), tmp_path / "data")
    assert not (tmp_path / "evil.txt").exists()


def test_a_full_disk_is_told_before_work(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="make room"):
        download_archive(url(server), tmp_path, needs=2**60)
    assert not (tmp_path / PART).exists()
