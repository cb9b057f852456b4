"""Download and unpacking of the official archives."""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import shutil
import zipfile
import zlib
from http.client import HTTPException
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import unquote, urlsplit
from urllib.request import Request, urlopen

from tqdm import tqdm

from filmvqa.system.disk import format_bytes, free_space
from filmvqa.system.errors import UserError, one_line
from filmvqa.system.files import check_output, named_errors
from filmvqa.system.locks import folder_lock

_BLOCK = 1 << 20
_TIMEOUT = 60
#: The first bytes of a zip archive, and of one without entries.
_ZIP_BEGINNINGS = (b"PK\x03\x04", b"PK\x05\x06")
#: Errors from reading a damaged, encrypted or unusual archive.
_ZIP_ERRORS = (
    zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError, ValueError,
)  # fmt: skip


def download_archive(
    url: str, folder: str | Path, *, md5: str | None = None, needs: int | None = None
) -> None:
    """Download a zip archive and unpack it into ``folder``, without the archive's top folder.

    The archive is downloaded to ``.<name>.part`` and deleted when all files are unpacked. A later
    call resumes an interrupted download, and unpacks only missing files.

    If the user has put the archive into the folder under its own name, that file is unpacked
    instead and kept. Existing files are never replaced.

    Parameters
    ----------
    md5
        Hexadecimal checksum of the archive; None relies on the CRC-32 of each file in it.
    needs
        Size of the archive and its content together in bytes; None estimates three times the
        archive's size.

    Raises
    ------
    UserError
        If the archive cannot be downloaded, is incomplete or broken, does not fit on the disk, or
        contains a file that exists in the folder with other content.
    """
    folder = Path(folder)
    name = Path(unquote(urlsplit(url).path)).name or "archive.zip"
    with folder_lock(folder, name):
        marker, part, users = folder / f".{name}.done", folder / f".{name}.part", folder / name
        if marker.exists():
            print(f"{folder}: {name} is already unpacked")
            return
        archive, remedy = part, "move it away and run again"
        if users.exists():
            archive = users
            remedy = (
                f"if it is incomplete, rename it to {part.name} and run again to resume the "
                "download; or move it away to download it again"
            )
        elif not zipfile.is_zipfile(part):  # true only for a complete archive
            check_output(part)
            _fetch(url, part, needs)
        _check_archive(archive, md5, remedy)
        _unpack(archive, folder, remedy)
        if archive == users:
            print(f"{users}: is kept, since it was not downloaded here")
        os.sync()  # fsync of 100,000 single files would take an hour
        marker.touch()
        part.unlink(missing_ok=True)


def _fetch(url: str, part: Path, needs: int | None) -> None:
    """Append the missing bytes of the file at ``url`` to ``part``."""
    fetched = part.stat().st_size if part.exists() else 0
    try:
        request = Request(url, headers={"Range": f"bytes={fetched}-"} if fetched else {})
        with urlopen(request, timeout=_TIMEOUT) as response:
            start, size = _read_extent(response, fetched)
            if start not in (0, fetched):
                raise UserError(f"{url}: sends another part than requested; check the server")
            _check_space(part, fetched, size, needs)
            _append(url, part, fetched, start, size, response)
    except HTTPError as error:
        if error.code == 416 and fetched:  # the server has no further bytes
            _, size = _read_extent(error, fetched)
            if size in (None, fetched):
                return
            raise UserError(
                f"{part}: has {fetched:,} bytes, the file at {url} {size:,}; move it away and run "
                "again"
            ) from None
        raise UserError(
            f"{url}: {one_line(error)}; check the address (data.download.url), or run again later"
        ) from None
    except (HTTPException, OSError) as error:
        if getattr(error, "filename", None):
            raise  # an error of the disk
        raise UserError(
            f"{url}: cannot be reached, or the connection was cut ({one_line(error)}); check the "
            "network and run again to resume"
        ) from None
    except ValueError as error:
        raise UserError(
            f"{url}: {one_line(error)}; check the address (data.download.url)"
        ) from None


def _read_extent(response: Any, fetched: int) -> tuple[int, int | None]:
    """The position in the file at which the body of a reply begins, and the file's size.

    The size is None if the server does not send it, as in chunked replies.
    """
    part = re.match(r"bytes (?:(\d+)-\d+|\*)/(\d+)?", response.headers.get("Content-Range", ""))
    if part:
        return int(part[1] or 0), int(part[2]) if part[2] else None
    if response.status in (206, 416):
        return fetched, None
    length = response.headers.get("Content-Length")
    return 0, int(length) if length else None


def _check_space(part: Path, fetched: int, size: int | None, needs: int | None) -> None:
    """Print the size of the download; raise ``UserError`` if it does not fit on the disk."""
    total = "an unknown size" if size is None else f"{size / 2**30:.2f} GiB"
    print(f"{part.name}: {total} to fetch into {part.parent}, {fetched / 2**30:.2f} GiB fetched")
    required = needs if needs is not None or size is None else 3 * size
    if required is not None and required - fetched > (free := free_space(part)):
        raise UserError(
            f"{part.parent}: the archive and its content need {required / 2**30:.1f} GiB, but only "
            f"{free / 2**30:.1f} GiB are free; make room or choose data.root=<folder>"
        )


def _append(
    url: str, part: Path, fetched: int, start: int, size: int | None, response: Any
) -> None:
    """Append the body of a reply, which begins at byte ``start`` of the file.

    Bytes before ``fetched`` are skipped, since a server without ranges sends the whole file.
    """
    position = start
    with (
        named_errors(part),
        open(part, "ab") as stream,
        tqdm(total=size, initial=fetched, unit="B", unit_scale=True) as bar,
    ):
        while block := response.read1(_BLOCK):
            if position == 0 and not block.startswith(_ZIP_BEGINNINGS):
                kind = response.headers.get("Content-Type") or "something else"
                raise UserError(
                    f"{url}: sends no zip archive but {kind}; check the address "
                    "(data.download.url), and whether the network wants a login"
                )
            new = block[max(0, fetched - position) :]
            position += len(block)
            stream.write(new)
            bar.update(len(new))
    if size is not None and position < size:
        raise UserError(f"{url}: the connection was cut; run again to resume")


def _check_archive(archive: Path, md5: str | None, remedy: str) -> None:
    """Raise ``UserError`` if an archive is incomplete or has the wrong MD5."""
    size = format_bytes(archive.stat().st_size)
    try:
        with zipfile.ZipFile(archive):
            pass
    except _ZIP_ERRORS as error:
        raise UserError(f"{archive}: no complete zip archive ({error}; {size}); {remedy}") from None
    if md5 is not None:
        with open(archive, "rb") as stream:
            actual = hashlib.file_digest(stream, "md5").hexdigest()
        if actual != md5:
            raise UserError(
                f"{archive}: has the MD5 {actual}, not data.download.md5={md5}; {remedy}"
            )


def _unpack(archive: Path, folder: Path, remedy: str) -> None:
    """Unpack the missing files; each has a temporary name until it is complete."""
    try:
        with zipfile.ZipFile(archive) as source:
            targets = {
                folder / _inner_path(archive, entry): entry
                for entry in source.infolist()
                if not entry.is_dir() and not entry.filename.startswith("__MACOSX/")
            }
            missing = [item for item in targets.items() if not _is_unpacked(*item, archive)]
            for target, entry in tqdm(missing, desc="unpack", unit="file"):
                temporary = target.with_name(f".{target.name}.tmp")
                with named_errors(target, entry.file_size):
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with source.open(entry) as content, open(temporary, "wb") as stream:
                        shutil.copyfileobj(content, stream, _BLOCK)
                    temporary.replace(target)
    except _ZIP_ERRORS as error:
        raise UserError(f"{archive}: broken archive ({one_line(error)}); {remedy}") from None


def _inner_path(archive: Path, entry: zipfile.ZipInfo) -> Path:
    """The path of an entry below the archive's top folder."""
    path = Path(entry.filename)
    inner = Path(*path.parts[1:])
    if not inner.parts or ".." in inner.parts or path.is_absolute():
        raise UserError(f"{archive}: holds {entry.filename!r}, outside its own folder")
    return inner


def _is_unpacked(target: Path, entry: zipfile.ZipInfo, archive: Path) -> bool:
    """Whether an entry is unpacked; ``UserError`` if ``target`` has other content."""
    if not target.exists():
        return False
    checksum = 0
    if target.is_file() and target.stat().st_size == entry.file_size:
        with open(target, "rb") as stream:
            while block := stream.read(_BLOCK):
                checksum = zlib.crc32(block, checksum)
        if checksum == entry.CRC:
            return True
    raise UserError(
        f"{target}: is not the file of that name in {archive.name}; move it away, or choose "
        "data.root=<folder>"
    )
