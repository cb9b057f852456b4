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
PART = ".CLEVR_v1.0.zip.part"
MD5 = hashlib.md5(CONTENT).hexdigest()


class Server(ThreadingHTTPServer):
    content = CONTENT
    content_type = "application/zip"
    ranges = True
    chunked = False
    redirects = 0
    cut = 0  # close the connection after so many bytes
    requested: list[str]

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
        range_header = self.headers.get("Range", "")
        self.server.requested.append(range_header)
        start = int(range_header[6:-1]) if range_header and self.server.ranges else 0
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
    server.requested = []
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


def test_an_archive_is_downloaded_and_unpacked_once(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for ranges, message in (([""], "GiB to fetch"), ([], "already unpacked")):
        download_archive(url(server) + "?dl=1", tmp_path, md5=MD5)
        assert server.requested == ranges
        assert message in capsys.readouterr().out
        server.requested.clear()
    check(tmp_path)
    assert (tmp_path / ".CLEVR_v1.0.zip.done").exists()  # the query is no part of the name


@pytest.mark.parametrize("redirects", [0, 2])
@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_download_is_resumed(
    server: Server, tmp_path: Path, ranges: bool, chunked: bool, redirects: int
) -> None:
    server.ranges, server.chunked = ranges, chunked
    server.cut, server.redirects = 100_000, redirects
    with pytest.raises(UserError, match="run again"):
        download_archive(url(server), tmp_path, md5=MD5)
    part = (tmp_path / PART).read_bytes()
    assert CONTENT.startswith(part)
    assert len(part) > 50_000
    server.cut, server.redirects = 50_000, redirects  # the downloaded part is always kept
    with pytest.raises(UserError, match="run again"):
        download_archive(url(server), tmp_path, md5=MD5)
    assert (tmp_path / PART).read_bytes().startswith(part)
    server.cut, server.redirects = 0, redirects
    server.requested.clear()
    part = (tmp_path / PART).read_bytes()
    download_archive(url(server), tmp_path, md5=MD5)
    check(tmp_path)
    assert server.requested == [f"bytes={len(part)}-"]


def test_a_complete_archive_is_not_downloaded_again(server: Server, tmp_path: Path) -> None:
    (tmp_path / PART).write_bytes(CONTENT)
    download_archive(url(server), tmp_path, md5=MD5)
    check(tmp_path)
    assert server.requested == []


@pytest.mark.parametrize("extra", [0, 10])
def test_a_part_of_another_file_is_kept(server: Server, tmp_path: Path, extra: int) -> None:
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


def test_a_web_page_instead_of_an_archive_is_named(server: Server, tmp_path: Path) -> None:
    server.content, server.content_type = b"<html>log in</html>", "text/html; charset=utf-8"
    server.ranges = False
    for start in (0, 9):
        with pytest.raises(UserError, match="sends no zip archive but text/html"):
            download_archive(url(server), tmp_path)
        assert (tmp_path / PART).stat().st_size == start
        (tmp_path / PART).write_bytes(CONTENT[:9])
    assert (tmp_path / PART).read_bytes() == CONTENT[:9]


@pytest.mark.parametrize("address", ["nothing", "htp://x/y.zip", "http://127.0.0.1:9/x.zip", ""])
def test_invalid_addresses_are_named(address: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"^{address}: "):
        download_archive(address, tmp_path)


@pytest.mark.parametrize(
    ("content", "md5"),
    [
        (b"", None),
        (b"<html>", None),
        (CONTENT, "0" * 32),
        (CONTENT[:900] + b"?" + CONTENT[901:], None),
        (CONTENT[:300_000], None),  # an interrupted download by wget
    ],
)
def test_the_users_archive_is_kept_even_if_invalid(
    server: Server, tmp_path: Path, content: bytes, md5: str | None
) -> None:
    path = tmp_path / "CLEVR_v1.0.zip"
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"^{path}: .*rename it to {PART} and run again"):
        download_archive(url(server), tmp_path, md5=md5)
    assert path.read_bytes() == content
    assert server.requested == []
    if content == CONTENT[:300_000]:  # the remedy in the message works
        path.rename(tmp_path / PART)
        download_archive(url(server), tmp_path, md5=MD5)
        check(tmp_path)
        assert server.requested == ["bytes=300000-"]


def test_existing_files_are_not_replaced(server: Server, tmp_path: Path) -> None:
    for content in (b"mine", b"Read Me"):  # the second has the length of the archive's file
        (tmp_path / "README.txt").write_bytes(content)
        with pytest.raises(UserError, match=r"README\.txt: is not the file of that name"):
            download_archive(url(server), tmp_path, md5=MD5)
        assert (tmp_path / "README.txt").read_bytes() == content
        assert not (tmp_path / "images").exists()


def test_two_processes_do_not_download_the_same_archive(server: Server, tmp_path: Path) -> None:
    with (
        folder_lock(tmp_path, "CLEVR_v1.0.zip"),
        pytest.raises(UserError, match="is using it"),
    ):
        download_archive(url(server), tmp_path)
    assert server.requested == []


def test_only_missing_files_are_unpacked(server: Server, tmp_path: Path) -> None:
    (tmp_path / "CLEVR_v1.0.zip").write_bytes(CONTENT)
    (tmp_path / "README.txt").write_bytes(FILES["CLEVR_v1.0/README.txt"])
    stamp = (tmp_path / "README.txt").stat().st_mtime_ns
    download_archive(url(server), tmp_path)
    check(tmp_path)
    assert (tmp_path / "CLEVR_v1.0.zip").read_bytes() == CONTENT
    assert (tmp_path / "README.txt").stat().st_mtime_ns == stamp
    assert server.requested == []


@pytest.mark.parametrize(
    ("content", "needs", "message"),
    [
        (CONTENT[:5000], None, "no complete zip archive"),
        (archive({"CLEVR/../../evil.txt": b"x"}), None, "outside"),
        (CONTENT, 2**60, "make room"),
    ],
)
def test_unusable_archives_are_refused(
    server: Server, tmp_path: Path, content: bytes, needs: int | None, message: str
) -> None:
    server.content = content
    with pytest.raises(UserError, match=message):
        download_archive(url(server), tmp_path / "data", needs=needs)
    assert not (tmp_path / "evil.txt").exists()
    assert (tmp_path / "data" / PART).exists() is (needs is None)
